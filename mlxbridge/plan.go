package mlxbridge

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	// leastTokens is the row that must fit in any case, rowTokens what each of many rows is given room for.
	leastTokens = 4096
	rowTokens   = 1024
	longTokens  = 16384

	// kvStep is how many tokens keys and values grow by at once.
	kvStep = 256
	// chunkTokens is the longest piece of a prompt that is computed at once, on a GPU and on a CPU.
	chunkTokens, chunkTokensCPU = 2048, 256
	// processBytes is for what is nobody's: the interpreter, kernels, MLX's pool of freed buffers.
	processBytes = 512 * mib
)

// measured is what a worker says of a model that it has loaded; zero before.
type measured struct {
	weights    int64 // with the adapter
	kvPerToken int64 // of a short row, in all layers
}

// rowKV is what the state of one row takes: what grows with the row, what grows only up to a window, what never does.
type rowKV struct {
	perToken, windowPerToken, window, fixed int64
}

// bytes is what a row of that many tokens takes.
func (k rowKV) bytes(tokens int64) int64 {
	steps := (tokens + kvStep - 1) / kvStep * kvStep
	return k.perToken*steps + k.windowPerToken*min(steps, k.window) + k.fixed
}

// plan says how many bytes a model needs at least, and how many it can make use of.
//
//	weights  their bytes in the files, those in 16 bits twice on a CPU, which computes in float32; once the model is
//	         loaded, what the worker measured. With an adapter and a draft model where there are
//	scratch  0.5 GiB for the process, and chunk × (vocabulary × 4 + 12 × hidden × bytes of a float) for what a chunk of
//	         a prompt leaves behind: its logits and activations. Where the shape is not known, an eighth of the weights,
//	         at most 1 GiB
//	least    weights + scratch + keys and values of one row of 4,096 tokens, or of the whole context where it is shorter:
//	         with less, a model would load and then refuse an ordinary conversation
//	wanted   weights + scratch + twice the keys and values of 1,024 tokens in every row, or of one row of 16,384, whichever
//	         is more: a row that joins or leaves copies its batch; and what stored prefixes may take
//
// A model is refused, and others are evicted, for the least; what is free beyond that it is given up to the wanted.
type plan struct {
	weights, scratch int64
	context          int64
	kv               rowKV
	least, wanted    int64
}

// planFor plans a model that is to run with these options and at most rows rows.
func planFor(m cluster.Model, o ModelOptions, rows int, known measured) plan {
	return planOn(m, o, rows, known, runtime.GOOS != "darwin")
}

func planOn(m cluster.Model, o ModelOptions, rows int, known measured, cpu bool) plan {
	s := m.Shape
	p := plan{weights: m.WeightBytes, context: int64(m.Context), kv: kvOf(m, known)}
	floatBytes, chunk := int64(2), int64(chunkTokens)
	if cpu {
		p.weights += s.HalfBytes
		floatBytes, chunk = 4, chunkTokensCPU
	}
	p.weights += s.ExtraBytes
	if known.weights > 0 {
		p.weights = known.weights // with adapter and draft
	}
	p.scratch = processBytes
	if s.Vocabulary > 0 && s.Hidden > 0 {
		p.scratch += chunk * (s.Vocabulary*4 + 12*s.Hidden*floatBytes)
	} else {
		p.scratch += min(p.weights/8, gib)
	}
	if o.Context > 0 && (p.context <= 0 || int64(o.Context) < p.context) {
		p.context = int64(o.Context)
	}
	if p.context <= 0 {
		p.context = leastTokens
	}
	p.least = p.base() + p.kv.bytes(min(p.context, leastTokens))
	live := max(p.kv.bytes(min(p.context, longTokens)), int64(rows)*p.kv.bytes(min(p.context, rowTokens)))
	p.wanted = p.base() + 2*live
	p.wanted = max(p.least, p.wanted+o.prefixBeside(p.wanted))
	if o.MemoryBytes > 0 {
		p.wanted = max(p.least, min(p.wanted, o.MemoryBytes))
	}
	return p
}

// kvOf is what a row takes. What was measured corrects the whole, for one token says nothing of its parts.
func kvOf(m cluster.Model, known measured) rowKV {
	s := m.Shape
	k := rowKV{
		perToken: m.KVBytesPerToken - s.WindowBytesPerToken, windowPerToken: s.WindowBytesPerToken, window: s.Window,
		fixed: s.StateBytes,
	}
	if known.kvPerToken > 0 && m.KVBytesPerToken > 0 {
		k.windowPerToken = k.windowPerToken * known.kvPerToken / m.KVBytesPerToken
		k.perToken = known.kvPerToken - k.windowPerToken
	}
	return k
}

func (p plan) base() int64 { return p.weights + p.scratch }

// claim is what a model with that plan gets of what is free, which is the least or more.
func (p plan) claim(free int64) int64 { return min(free, p.wanted) }

// String says what the least is made of.
func (p plan) String() string {
	parts := []string{
		bytesText(p.weights) + " weights", bytesText(p.scratch) + " scratch",
		fmt.Sprintf("%s keys and values of %d tokens", bytesText(p.least-p.base()), min(p.context, leastTokens)),
	}
	return bytesText(p.least) + " (" + strings.Join(parts, ", ") + ")"
}
