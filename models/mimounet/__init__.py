"""MIMO-UNet and MIMO-UNet+ (Cho et al., ICCV 2021), and a variant with cross-scale aggregation and feature recalibration."""
