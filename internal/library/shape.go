package library

import (
	"slices"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// unknownStateTokens is as many tokens' keys and values as a layer is taken to keep whose state config.json does not
// give the numbers of: rather too much than too little.
const unknownStateTokens = 1024

// shape is what the memory of a model is planned from, beside weights and keys and values. width is the length of the
// numbers that it computes with.
func (c modelConfig) shape(w weights, width int64) cluster.Shape {
	t := c.language()
	s := cluster.Shape{
		HalfBytes:  w.byDType["F16"] + w.byDType["BF16"],
		Hidden:     min(t.number(hiddenKeys()...), mostNumber),
		Vocabulary: min(max(t.number("vocab_size"), c.number("vocab_size")), mostNumber),
		StateBytes: t.stateBytes(width),
	}
	keeping := min(t.attentionLayers(), mostNumber)
	window := min(t.number("sliding_window"), mostNumber)
	if windows := min(t.windowLayers(c.text("model_type")), keeping); windows > 0 && window > 0 {
		s.Window, s.WindowBytesPerToken = window, c.kvElementsPerToken()/keeping*windows*width
	}
	return s
}

func hiddenKeys() []string { return []string{"hidden_size", "n_embd", "d_model", "dim", "model_dim"} }

// windowLayers counts the layers that mlx-lm (0.31 to 0.32) gives a cache no longer than the window. Other architectures
// have a sliding_window in their config.json and keep everything all the same, so only those count that are known.
func (c modelConfig) windowLayers(architecture string) int64 {
	switch {
	case slices.Contains([]string{"gemma3", "gemma3_text", "cohere2"}, architecture):
		// Every n-th layer sees everything.
		every, layers := c.number("sliding_window_pattern", "_sliding_window_pattern"), c.number(layerKeys()...)
		if every > 0 {
			return layers - layers/every
		}
	case !slices.Contains([]string{
		"llama", "ministral3", "gpt_oss", "olmo3", "gemma3n", "gemma4", "gemma4_text", "mellum", "afmoe",
	}, architecture):
		return 0
	}
	return c.layersOf("sliding_attention")
}

// layersOf counts the layers that layer_types calls by one of some names.
func (c modelConfig) layersOf(names ...any) int64 {
	types, ok := c["layer_types"].([]any)
	if !ok || int64(len(types)) != c.number(layerKeys()...) {
		return 0
	}
	n := int64(0)
	for _, t := range types {
		if slices.Contains(names, t) {
			n++
		}
	}
	return n
}

func recurrentLayers() []any { return []any{"linear_attention", "mamba", "conv", "recurrent"} }

// stateBytes is what the layers without keys and values keep for one row, however long it is: a recurrent state in
// float32, and the last inputs of a short convolution.
//
//	gated delta rule (qwen3_next)  value heads × value width × key width; convolution over keys, queries and values
//	state spaces (mamba2)          heads × head width × state width; convolution over inputs and both projections
//	short convolutions (lfm2)      its length × hidden
func (c modelConfig) stateBytes(width int64) int64 {
	layers := c.layersOf(recurrentLayers()...)
	if layers == 0 {
		return 0
	}
	one := func(keys ...string) int64 { return min(c.number(keys...), 1<<16) }
	var state, convolution int64
	switch {
	case one("linear_num_value_heads") > 0:
		keys := one("linear_num_key_heads") * one("linear_key_head_dim")
		values := one("linear_num_value_heads") * one("linear_value_head_dim")
		state = values * one("linear_key_head_dim")
		convolution = one("linear_conv_kernel_dim") * (2*keys + values)
	case one("mamba_num_heads", "mamba_n_heads") > 0:
		inner := one("mamba_num_heads", "mamba_n_heads") * one("mamba_head_dim", "mamba_d_head")
		size := one("ssm_state_size", "mamba_d_state")
		state = inner * size
		convolution = one("conv_kernel", "mamba_d_conv") * (inner + 2*max(one("n_groups", "mamba_n_groups"), 1)*size)
	case one("conv_L_cache") > 0:
		convolution = one("conv_L_cache") * one(hiddenKeys()...)
	}
	each := min(state, 1<<40)*4 + min(convolution, 1<<40)*width
	if each == 0 {
		each = unknownStateTokens * 2 * min(c.number(hiddenKeys()...), mostNumber) * width
	}
	return min(layers, mostNumber) * min(each, 1<<38)
}
