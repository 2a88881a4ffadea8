"""The methods of segmentation, one file each; ``settings.MethodSection`` lists them."""
