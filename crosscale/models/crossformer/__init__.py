"""CrossFormer and CrossFormer++ (Wang et al., ICLR 2022, TPAMI 2023): short- and long-distance attention."""
