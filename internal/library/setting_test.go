package library_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/library"
)

// adapterFolder makes a LoRA adapter of 24 bytes whose weights are fill.
func adapterFolder(t *testing.T, fill byte) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"adapter_config.json":  `{"fine_tune_type": "lora"}`,
		"adapters.safetensors": string(safetensors(t, fill, entry{"a", "F32", []int{6}, 24})),
	})
	return dir
}

func openWith(t *testing.T, settings ...library.Setting) *library.Library {
	t.Helper()
	l, err := library.Open(library.Options{CacheDir: t.TempDir(), HubDirs: []string{}, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestShape(t *testing.T) {
	t.Parallel()
	const head = `"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512,`
	const kv = 2 * 2 * 16 // numbers for a token in one layer
	types := func(names ...string) string { return `"layer_types": ["` + strings.Join(names, `", "`) + `"]` }
	width := kvWidth()
	for _, c := range []struct {
		name, config           string
		perToken, window, most int64 // numbers of all layers, of those with windows
		state                  int64
	}{
		{"no windows", `{"model_type": "qwen3", ` + head + `"num_hidden_layers": 3, "sliding_window": 4096}`, 3 * kv, 0, 0, 0},
		{"windows that are not used", `{"model_type": "qwen2", ` + head + `"num_hidden_layers": 2, "sliding_window": 4096, ` +
			types("sliding_attention", "full_attention") + `}`, 2 * kv, 0, 0, 0},
		{"every second", `{"model_type": "gpt_oss", ` + head + `"num_hidden_layers": 4, "sliding_window": 128, ` +
			types("sliding_attention", "full_attention", "sliding_attention", "full_attention") + `}`, 4 * kv, 2 * kv, 128, 0},
		{"all but every sixth", `{"model_type": "gemma3_text", ` + head + `"num_hidden_layers": 13, "sliding_window": 512,
			"sliding_window_pattern": 6}`, 13 * kv, 11 * kv, 512, 0},
		{"nested", `{"model_type": "gemma3", "text_config": {` + head + `"num_hidden_layers": 6, "sliding_window": 512,
			"sliding_window_pattern": 6}}`, 6 * kv, 5 * kv, 512, 0},
		{"a gated delta rule", `{"model_type": "qwen3_next", ` + head + `"num_hidden_layers": 2, "linear_num_value_heads": 4,
			"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4, ` +
			types("linear_attention", "full_attention") + `}`, kv, 0, 0, 4*16*8*4 + 4*(2*2*8+4*16)*width},
		{"a state space", `{"model_type": "granitemoehybrid", ` + head + `"num_hidden_layers": 3, "mamba_n_heads": 4,
			"mamba_d_head": 16, "mamba_d_state": 32, "mamba_d_conv": 4, "mamba_n_groups": 1, ` +
			types("mamba", "mamba", "attention") + `}`, kv, 0, 0, 2 * (4*16*32*4 + 4*(64+2*32)*width)},
		{
			"a state that is not told", `{"model_type": "x", ` + head + `"num_hidden_layers": 2, ` + types("recurrent", "full_attention") + `}`,
			kv, 0, 0, 1024 * 2 * 64 * width,
		},
	} {
		m := resolve(t, open(t), folder(t, map[string]string{"config.json": c.config}))
		want := cluster.Shape{
			HalfBytes: 96, Hidden: 64, Vocabulary: 512, WindowBytesPerToken: c.window * width, Window: c.most, StateBytes: c.state,
		}
		if m.KVBytesPerToken != c.perToken*width || m.Shape != want {
			t.Errorf("%s: %d bytes and %+v, want %d and %+v", c.name, m.KVBytesPerToken, m.Shape, c.perToken*width, want)
		}
	}
}

func TestSettingsChangeAModel(t *testing.T) {
	t.Parallel()
	dir, draft := folder(t, nil), folder(t, map[string]string{"config.json": strings.Replace(llamaConfig, "3", "1", 1)})
	base := resolve(t, open(t), dir)
	adapter := adapterFolder(t, 'a')
	with := func(s library.Setting) cluster.Model {
		s.Name = dir
		return resolve(t, openWith(t, library.Setting{Name: "another", Adapter: "/none"}, s), dir)
	}
	adapted := with(library.Setting{Adapter: adapter})
	if adapted.Digest == base.Digest || adapted.Shape.ExtraBytes != 24 || adapted.WeightBytes != base.WeightBytes {
		t.Errorf("with an adapter: %+v", adapted)
	}
	if again := with(library.Setting{Adapter: adapterFolder(t, 'a')}); again.Digest != adapted.Digest {
		t.Error("the same adapter elsewhere makes another model")
	}
	if other := with(library.Setting{Adapter: adapterFolder(t, 'b')}); other.Digest == adapted.Digest {
		t.Error("two adapters make one model")
	}
	eight, four := with(library.Setting{KVBits: 8}), with(library.Setting{KVBits: 4})
	if eight.Digest == base.Digest || eight.Digest == four.Digest {
		t.Error("quantised keys and values do not show in the digest")
	}
	drafted := with(library.Setting{Draft: draft, Context: 100})
	if extra := 96 + 96*(kvWidth()/2-1) + drafted.KVBytesPerToken/3*4096; drafted.Shape.ExtraBytes != extra {
		t.Errorf("with a draft it takes %d bytes more, want %d", drafted.Shape.ExtraBytes, extra)
	}
	if drafted.Digest != base.Digest || drafted.Context != 100 {
		t.Errorf("with a draft and a shorter context: %+v", drafted)
	}
	if got := with(library.Setting{Context: 1 << 20}).Context; got != base.Context {
		t.Errorf("the context grew to %d", got)
	}
}

func TestAnAdapterThatChangedIsReadAnew(t *testing.T) {
	t.Parallel()
	dir, adapter := folder(t, nil), adapterFolder(t, 'a')
	l := openWith(t, library.Setting{Name: dir, Adapter: adapter})
	first := resolve(t, l, dir)
	write(t, adapter, map[string]string{
		"adapters.safetensors": string(safetensors(t, 'a', entry{"a", "F32", []int{6}, 24}, entry{"b", "F32", []int{2}, 8})),
	})
	if second := resolve(t, l, dir); second.Digest == first.Digest || second.Shape.ExtraBytes != 32 {
		t.Errorf("%+v", second)
	}
}

func TestBadSettings(t *testing.T) {
	t.Parallel()
	dir, adapter := folder(t, nil), adapterFolder(t, 'a')
	for name, c := range map[string]struct {
		change func(string)
		says   []string
	}{
		"no weights":        {func(d string) { _ = os.Remove(filepath.Join(d, "adapters.safetensors")) }, []string{"no adapters.safetensors"}},
		"no config":         {func(d string) { _ = os.Remove(filepath.Join(d, "adapter_config.json")) }, []string{"no adapter_config.json"}},
		"config is no JSON": {func(d string) { write(t, d, map[string]string{"adapter_config.json": "x"}) }, []string{"no JSON object"}},
		"weights are text":  {func(d string) { write(t, d, map[string]string{"adapters.safetensors": "x"}) }, []string{"not a safetensors file"}},
		"weights are cut":   {func(d string) { cut(t, filepath.Join(d, "adapters.safetensors")) }, []string{"cut off"}},
		"it is not there":   {func(d string) { _ = os.RemoveAll(d) }, []string{"no adapter_config.json in"}},
		"weights are a folder": {func(d string) {
			_ = os.Remove(filepath.Join(d, "adapters.safetensors"))
			_ = os.Mkdir(filepath.Join(d, "adapters.safetensors"), 0o755)
		}, []string{"is not a file"}},
	} {
		broken := adapterFolder(t, 'a')
		c.change(broken)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openWith(t, library.Setting{Name: dir, Adapter: broken})
			refuses(t, l, dir, cluster.CodeBadModel, append(c.says, "adapter of model "+dir, broken)...)
		})
	}
	refuses(t, openWith(t, library.Setting{Name: dir, Adapter: adapter, Draft: "org/none"}), dir, cluster.CodeBadModel,
		"draft of model "+dir, "org/none")
}

func cut(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()-1)
	}
	if err != nil {
		t.Fatal(err)
	}
}
