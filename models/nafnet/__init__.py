"""NAFNet (Chen et al., ECCV 2022)."""
