"""What the plots of a report's page show and where: numbers for their templates to draw."""
