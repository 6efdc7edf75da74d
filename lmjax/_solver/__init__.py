"""The method: settings, the loop and its rules, and what a fit returns."""
