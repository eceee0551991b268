package mlxbridge

import (
	"runtime"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	// leastTokens is the row that must fit in any case, rowTokens what each of many rows is given room for.
	leastTokens = 4096
	rowTokens   = 1024
	longTokens  = 16384
)

// plan says how many bytes a model needs at least, and how many it can make use of.
type plan struct {
	least, wanted int64
}

// planFor estimates what a model takes. It is coarse: the worker measures and says so once the model is loaded.
//
//	weights  their bytes in the files; twice that for 16-bit weights on a CPU, which computes in float32
//	scratch  512 MiB for the process, MLX's pool of buffers and the kernels, and an eighth of the weights, at most 1 GiB
//	         more, for what a chunk of a prompt leaves behind: it grows with hidden size and vocabulary as the weights do
//	least    weights + scratch + keys and values of one row of 4,096 tokens, or of the whole context where it is shorter:
//	         with less, a model would load and then refuse an ordinary conversation
//	wanted   the same for 1,024 tokens in every row, or one row of 16,384, whichever is more, and half of it again,
//	         because a row that joins or leaves copies its batch; and 1 GiB, or an eighth of the rest where that is
//	         less, for prefixes that are kept
//
// A model is refused, and others are evicted, for the least; what is free beyond that it is given up to the wanted.
func planFor(m cluster.Model, rows int) plan {
	return planOn(m, rows, runtime.GOOS != "darwin")
}

func planOn(m cluster.Model, rows int, cpu bool) plan {
	weights := m.WeightBytes
	if cpu && (m.Quantization == "bf16" || m.Quantization == "f16") {
		weights *= 2
	}
	base := weights + 512*mib + min(weights/8, gib)
	context := int64(m.Context)
	if context <= 0 {
		context = leastTokens
	}
	tokens := max(min(context, longTokens), int64(rows)*min(context, rowTokens))
	least := base + m.KVBytesPerToken*min(context, leastTokens)
	wanted := base + m.KVBytesPerToken*tokens*3/2
	wanted += min(gib, wanted/8)
	return plan{least: least, wanted: max(least, wanted)}
}

// claim is what a model with that plan gets of what is free, which is the least or more.
func (p plan) claim(free int64) int64 { return min(free, p.wanted) }
