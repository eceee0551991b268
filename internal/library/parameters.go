package library

import "strings"

// isExpert is true for a tensor of a mixture of experts of which a token uses some only, as mlx-lm names them
// (switch_mlp, switch_glu) and as others do (experts.7). An expert that all tokens share is none.
func isExpert(tensor string) bool {
	for part := range strings.SplitSeq(tensor, ".") {
		switch part {
		case "experts", "switch_mlp", "switch_glu":
			return true
		}
	}
	return false
}

// parameters counts the numbers of a model, and those of them that one token uses. The bits of packed ones are those of
// the configuration; single layers that are packed otherwise are counted a little wrongly.
func parameters(c modelConfig, w weights) (all, active int64) {
	plain := w.bytes - w.packed - w.scaling
	all = plain / w.plainBytes()
	if w.packed > 0 {
		bits := max(c.object("quantization").number("bits"), c.object("quantization_config").number("bits"))
		if bits < 1 || bits > 32 {
			return 0, 0
		}
		all += w.packed * 8 / bits
	}
	t := c.language()
	experts := t.number("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
	used := t.number("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k")
	if w.experts == 0 || used == 0 || experts <= used {
		return all, all
	}
	// Experts are packed like the rest, so they have the same part of the numbers as of the bytes.
	left := float64(w.experts) / float64(w.bytes) * (1 - float64(used)/float64(experts))
	return all, int64(float64(all) * (1 - left))
}

// plainBytes is the length of most numbers that are not packed.
func (w weights) plainBytes() int64 {
	narrow := w.byDType["F8_E4M3"] + w.byDType["F8_E5M2"]
	half, whole := w.byDType["F16"]+w.byDType["BF16"], w.byDType["F32"]
	switch {
	case narrow > half+whole:
		return 1
	case whole > half:
		return 4
	default:
		return 2
	}
}
