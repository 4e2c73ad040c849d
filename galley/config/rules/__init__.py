"""Rules between the keys of a recipe, which hold before anything is started."""
