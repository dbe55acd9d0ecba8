"""Operations with fast, exact second derivatives, and what it takes to differentiate twice."""
