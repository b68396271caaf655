"""Raw attention: how the class token of the last block attends to every token, its heads averaged (Chefer et al. 2021, section 4)."""

from pipeline.families import attention


@attention
def raw_attention(A):
    return A[-1][:, 0]
