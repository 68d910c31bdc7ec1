"""From heatmaps to regions: sums, density and gain of each region of an atlas."""
