package library

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
)

const (
	configMost = 8 << 20 // bytes
	// mostNumber bounds every number of a configuration, so that products of a few stay in range.
	mostNumber = 1 << 24
	// fallbackContext is assumed, as the worker does, where nothing says how long a context may be.
	fallbackContext = 4096
)

// modelConfig is config.json, or an object in it.
type modelConfig map[string]any

func readConfig(dir string, files fileSet) (modelConfig, error) {
	data, err := files.read(dir, "config.json", configMost)
	if err != nil {
		return nil, err
	}
	var c modelConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, badModel("config.json is no JSON object: %v", err)
	}
	if c.text("model_type") == "" {
		return nil, badModel("config.json has no model_type")
	}
	return c, nil
}

func (c modelConfig) text(key string) string {
	s, _ := c[key].(string)
	return s
}

func (c modelConfig) object(key string) modelConfig {
	m, _ := c[key].(map[string]any)
	return m
}

// number returns the first of some keys that is a positive whole number; of a list, which some models have with one
// number for each layer, it is the largest. 0 means none.
func (c modelConfig) number(keys ...string) int64 {
	for _, key := range keys {
		values, isList := c[key].([]any)
		if !isList {
			values = []any{c[key]}
		}
		best := int64(0)
		for _, v := range values {
			if f, ok := v.(float64); ok && f >= 1 && f <= math.MaxInt64/2 && f == math.Trunc(f) {
				best = max(best, int64(f))
			}
		}
		if best > 0 {
			return best
		}
	}
	return 0
}

// language is the part that describes the language model: models that also see or hear nest it.
func (c modelConfig) language() modelConfig {
	if inner := c.object("text_config"); inner.number(layerKeys()...) > 0 {
		return inner
	}
	return c
}

func layerKeys() []string { return []string{"num_hidden_layers", "n_layer", "n_layers", "num_layers"} }

// context is how many tokens a model can hold, found in the order in which the worker looks.
func (c modelConfig) context(tokenizerLimit int64) int {
	keys := []string{
		"max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx",
	}
	for _, place := range []modelConfig{c, c.object("text_config")} {
		if n := place.number(keys...); n > 0 {
			return int(min(n, math.MaxInt32))
		}
	}
	if tokenizerLimit > 0 && tokenizerLimit < 1<<30 {
		return int(tokenizerLimit)
	}
	return fallbackContext
}

// kvElementsPerToken is how many numbers the keys and values of one token are in all layers. Where it can only be
// guessed it is rather too much than too little, since it decides what fits:
//
//   - layers that see a window only are counted as if they saw all; shape says which part that is;
//   - layers without keys and values are left out only where layer_types says which they are;
//   - layers that share keys and values with others are counted;
//   - compressed attention (MLA) is counted as keys and values of all heads, as some architectures keep it; others keep
//     the compressed form, which is far smaller, and the worker then measures less;
//   - without numbers of heads the keys are taken to be as wide as the hidden state, and without a width nothing is
//     counted, as in models of pure recurrence.
func (c modelConfig) kvElementsPerToken() int64 {
	t := c.language()
	layers := min(t.attentionLayers(), mostNumber)
	heads := t.number("num_attention_heads", "n_head", "n_heads", "num_heads")
	if rank := t.number("kv_lora_rank"); rank > 0 {
		width := t.number("qk_nope_head_dim") + t.number("qk_rope_head_dim") + t.number("v_head_dim")
		return layers * min(max(min(heads, mostNumber)*min(width, mostNumber), rank), 1<<32)
	}
	hidden := t.number(hiddenKeys()...)
	kvHeads := max(t.number("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv"), t.number("num_global_key_value_heads"))
	if on, _ := t["multi_query"].(bool); on && kvHeads == 0 {
		kvHeads = 1
	}
	if kvHeads == 0 {
		kvHeads = heads
	}
	dim := max(t.number("head_dim", "attention_head_dim"), t.number("global_head_dim"))
	if dim == 0 && heads > 0 {
		dim = hidden / heads
	}
	if kvHeads == 0 || dim == 0 {
		kvHeads, dim = 1, hidden
	}
	return layers * min(2*min(kvHeads, mostNumber)*min(dim, mostNumber), 1<<32)
}

// attentionLayers counts the layers that keep keys and values.
func (c modelConfig) attentionLayers() int64 {
	return c.number(layerKeys()...) - c.layersOf(recurrentLayers()...)
}

// readTokenizerLimit is how many tokens the tokenizer says that the model can hold; 0 where it does not.
func readTokenizerLimit(dir string) int64 {
	path := filepath.Join(dir, "tokenizer_config.json")
	if info, err := os.Stat(path); err != nil || info.Size() > configMost {
		return 0
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	var c modelConfig
	if json.Unmarshal(data, &c) != nil {
		return 0
	}
	return c.number("model_max_length")
}
