"""Second derivatives: Hessian products, operations that have them, and models that do not."""
