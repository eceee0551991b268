package library_test

import "testing"

// A packed word holds 8 numbers of 4 bits; what scales them is none. Of four experts a token uses one.
func TestParameters(t *testing.T) {
	t.Parallel()
	const (
		dense   = `{"model_type": "x", "num_hidden_layers": 3`
		experts = dense + `, "num_experts": 4, "num_experts_per_tok": 1`
		packed  = `, "quantization": {"bits": 4, "group_size": 64}}`
	)
	plain := entry{"model.embed.weight", "BF16", []int{32, 10}, 640} // 320 numbers
	layer := func(name string) []entry {
		return []entry{
			plain,
			{name + ".weight", "U32", []int{4, 8, 4}, 512}, // 1024 numbers
			{name + ".scales", "BF16", []int{4, 8, 1}, 64},
			{name + ".biases", "BF16", []int{4, 8, 1}, 64},
		}
	}
	for _, c := range []struct {
		name, config string
		weights      []entry
		all, active  int64
	}{
		{"plain", dense + "}", []entry{plain}, 320, 320},
		{"32 bits", dense + "}", []entry{{"a", "F32", []int{10, 4}, 160}}, 40, 40},
		{"8 bits", dense + "}", []entry{{"a", "F8_E4M3", []int{10, 4}, 40}}, 40, 40},
		{"packed", dense + packed, layer("model.layers.0.mlp.up_proj"), 1344, 1344},
		// Half of the bytes are experts, of which three quarters are not used.
		{"experts", experts + packed, layer("model.layers.0.mlp.switch_mlp.up_proj"), 1344, 840},
		{"experts under another name", experts + packed, layer("model.layers.0.mlp.experts.0.up_proj"), 1344, 840},
		{"the shared expert", experts + packed, layer("model.layers.0.mlp.shared_expert.up_proj"), 1344, 1344},
		{"packed in a way that is not told", dense + "}", layer("model.layers.0.mlp.up_proj"), 0, 0},
	} {
		dir := folder(t, map[string]string{
			"config.json": c.config, "model.safetensors": string(safetensors(t, 'w', c.weights...)),
		})
		m := resolve(t, open(t), dir)
		if m.Layers != 3 || m.Parameters != c.all || m.ActiveParameters != c.active {
			t.Errorf("%s: %d layers, %d parameters, %d active; want 3, %d, %d",
				c.name, m.Layers, m.Parameters, m.ActiveParameters, c.all, c.active)
		}
	}
}
