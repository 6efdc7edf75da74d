"""From what a user holds to one flat residual with bounds, weights and terms."""
