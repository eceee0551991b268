package library_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/library"
)

// kvWidth is the length of a number in the keys and values of a model with 16-bit weights.
func kvWidth() int64 {
	if runtime.GOOS == "darwin" {
		return 2
	}
	return 4
}

func TestTiny(t *testing.T) {
	t.Parallel()
	l := open(t)
	m, dir, err := l.Resolve(t.Context(), "tiny")
	if err != nil {
		t.Fatal(err)
	}
	want := cluster.Model{
		Name: "tiny", Digest: m.Digest, Architecture: "qwen3", Quantization: "bf16",
		WeightBytes: 1509120, KVBytesPerToken: 2 * 2 * 2 * 64 * kvWidth(), Context: 8192,
		Shape:  cluster.Shape{HalfBytes: 1509120, Hidden: 128, Vocabulary: 2048},
		Layers: 2, Parameters: 1509120 / 2, ActiveParameters: 1509120 / 2,
	}
	if m != want {
		t.Errorf("got %+v, want %+v", m, want)
	}
	if !strings.HasPrefix(m.Digest, "sha256:") || len(m.Digest) != 7+64 {
		t.Errorf("digest is %q", m.Digest)
	}
	for _, name := range []string{"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		want, wantErr := os.ReadFile(filepath.Join("tiny", name))
		if err != nil || wantErr != nil || string(got) != string(want) {
			t.Errorf("%s is not what is embedded (%v, %v)", name, err, wantErr)
		}
	}
}

func TestTinyIsMended(t *testing.T) {
	t.Parallel()
	damages := map[string]func(dir string) error{
		"changed":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o600) },
		"cut off":  func(dir string) error { return os.Truncate(filepath.Join(dir, "model.safetensors"), 1000) },
		"removed":  func(dir string) error { return os.Remove(filepath.Join(dir, "tokenizer.json")) },
		"all gone": os.RemoveAll,
		"one more": func(dir string) error { return os.WriteFile(filepath.Join(dir, "model-2.safetensors"), nil, 0o600) },
		"is folder": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "config.json")), os.Mkdir(filepath.Join(dir, "config.json"), 0o700))
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cache := t.TempDir()
			o := library.Options{CacheDir: cache, HubDirs: []string{}}
			running, err := library.Open(o)
			if err != nil {
				t.Fatal(err)
			}
			before, dir, err := running.Resolve(t.Context(), "tiny")
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range []func() (*library.Library, error){
				func() (*library.Library, error) { return running, nil },
				func() (*library.Library, error) { return library.Open(o) },
			} {
				if err := damage(dir); err != nil {
					t.Fatal(err)
				}
				lib, err := l()
				if err != nil {
					t.Fatal(err)
				}
				after, _, err := lib.Resolve(t.Context(), "tiny")
				if err != nil || after != before {
					t.Errorf("got %+v, %v, want %+v", after, err, before)
				}
				if _, err := os.Stat(filepath.Join(dir, "model-2.safetensors")); err == nil {
					t.Error("a file that does not belong there is left")
				}
			}
		})
	}
}

func TestTinyIsUnpackedByManyAtOnce(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			l, err := library.Open(library.Options{CacheDir: cache, HubDirs: []string{}})
			if err != nil {
				t.Error(err)
				return
			}
			if _, _, err := l.Resolve(context.Background(), "tiny"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	left, err := filepath.Glob(filepath.Join(cache, "models", "*", ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestTinyWithoutRoomIsAnError(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, "relative"} {
		if _, err := library.Open(library.Options{CacheDir: dir}); err == nil {
			t.Errorf("opened in %s", dir)
		}
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	small, err := filepath.Abs("../../testdata/models/small")
	if err != nil {
		t.Fatal(err)
	}
	l := open(t)
	m := resolve(t, l, small+"/")
	want := cluster.Model{
		Name: small, Digest: m.Digest, Architecture: "qwen3", Quantization: "bf16",
		WeightBytes: 10493952, KVBytesPerToken: 6 * 2 * 2 * 64 * kvWidth(), Context: 8192,
		Shape:  cluster.Shape{HalfBytes: 10493952, Hidden: 256, Vocabulary: 2048},
		Layers: 6, Parameters: 10493952 / 2, ActiveParameters: 10493952 / 2,
	}
	if m != want {
		t.Errorf("got %+v, want %+v", m, want)
	}
	if m.Digest == resolve(t, l, "tiny").Digest {
		t.Error("two models have one digest")
	}
}

func TestNamesThatAreNone(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir())
	for _, name := range []string{
		"", ".", "..", "./model", "../model", "a/b/c", "~/model", `a\b`, "a/../b", "org/", "/../", "a b", "a/b\n", "-x",
		"org/..", "org/.hidden", "a--b/c", "*", "tiny/", strings.Repeat("a", 200),
	} {
		if name == "/../" {
			continue // that is the root folder, by an odd name
		}
		refuses(t, l, name, cluster.CodeInvalid, "model")
	}
}

func TestBadFolders(t *testing.T) {
	t.Parallel()
	whole := string(weightsOf(t))
	index := `{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}`
	cases := map[string]struct {
		files map[string]string
		says  []string
	}{
		"no config":           {map[string]string{"config.json": ""}, []string{"no config.json"}},
		"config is no JSON":   {map[string]string{"config.json": "{"}, []string{"config.json is no JSON"}},
		"config is a list":    {map[string]string{"config.json": "[]"}, []string{"config.json is no JSON object"}},
		"config without type": {map[string]string{"config.json": "{}"}, []string{"config.json has no model_type"}},
		"no tokenizer":        {map[string]string{"tokenizer.json": ""}, []string{"no tokenizer"}},
		"no weights":          {map[string]string{"model.safetensors": ""}, []string{"no weights", "model*.safetensors"}},
		"empty weights":       {map[string]string{"model.safetensors": "\x00"}, []string{"model.safetensors is not a safetensors file"}},
		"weights are text": {
			map[string]string{"model.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"},
			[]string{"model.safetensors is not a safetensors file"},
		},
		"weights cut off":        {map[string]string{"model.safetensors": whole[:len(whole)-10]}, []string{"model.safetensors is cut off"}},
		"weights' header is cut": {map[string]string{"model.safetensors": whole[:20]}, []string{"model.safetensors is cut off"}},
		"a part is missing": {
			map[string]string{"model.safetensors": "", "model.safetensors.index.json": index, "model-00001-of-00002.safetensors": whole},
			[]string{"not complete", "model-00002-of-00002.safetensors is missing"},
		},
		"index is no JSON": {map[string]string{"model.safetensors.index.json": "x"}, []string{"model.safetensors.index.json"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refuses(t, open(t), folder(t, c.files), cluster.CodeBadModel, c.says...)
		})
	}
	t.Run("is a file", func(t *testing.T) {
		t.Parallel()
		refuses(t, open(t), filepath.Join(folder(t, nil), "config.json"), cluster.CodeBadModel, "not a folder", "config.json")
	})
	t.Run("is not there", func(t *testing.T) {
		t.Parallel()
		refuses(t, open(t), filepath.Join(t.TempDir(), "none"), cluster.CodeNoModel, "none")
	})
}

func TestFacts(t *testing.T) {
	t.Parallel()
	f32 := string(safetensors(t, 'w', entry{"a", "F32", []int{8}, 32}, entry{"b", "BF16", []int{4}, 8}))
	packed := string(safetensors(t, 'w',
		entry{"w", "U32", []int{8, 4}, 128}, entry{"w.scales", "F16", []int{8}, 16}, entry{"w.biases", "F16", []int{8}, 16}))
	cases := map[string]struct {
		files        map[string]string
		quantization string
		weights      int64
		kv           int64 // numbers for a token, at 4 bytes
		context      int
	}{
		"plain":     {nil, "bf16", 96, 3 * 2 * 2 * 16, 2048},
		"in floats": {map[string]string{"model.safetensors": f32}, "f32", 40, 3 * 2 * 2 * 16, 2048},
		"packed": {map[string]string{
			"model.safetensors": packed,
			"config.json":       strings.Replace(llamaConfig, "{", `{"quantization": {"group_size": 64, "bits": 4},`, 1),
		}, "4-bit", 160, 3 * 2 * 2 * 16, 2048},
		"in parts": {map[string]string{
			"model.safetensors": "", "model-00001-of-00002.safetensors": string(weightsOf(t)),
			"model-00002-of-00002.safetensors": string(weightsOf(t)), "other.safetensors": "not loaded",
			"model.safetensors.index.json": `{"weight_map": {"a": "model-00001-of-00002.safetensors"}}`,
		}, "bf16", 192, 3 * 2 * 2 * 16, 2048},
		"nested": {map[string]string{"config.json": `{"model_type": "gemma3", "text_config": {"hidden_size": 64,
			"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32,
			"max_position_embeddings": 131072}, "vision_config": {"num_hidden_layers": 27}}`}, "bf16", 96, 2 * 2 * 32, 131072},
		"every head has its own": {map[string]string{"config.json": `{"model_type": "gpt2", "n_embd": 64, "n_layer": 2,
			"n_head": 4, "n_positions": 1024}`}, "bf16", 96, 2 * 2 * 64, 1024},
		"some layers are linear": {map[string]string{"config.json": `{"model_type": "qwen3_next", "hidden_size": 64,
			"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
			"layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"]}`}, "bf16", 96, 2 * 2 * 16, 4096},
		"compressed attention": {map[string]string{"config.json": `{"model_type": "deepseek_v2", "hidden_size": 64,
			"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 16,
			"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "max_position_embeddings": 4096}`}, "bf16", 96, 2 * 4 * 20, 4096},
		"the tokenizer knows the context": {map[string]string{
			"config.json":           `{"model_type": "x", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}`,
			"tokenizer_config.json": `{"model_max_length": 512}`,
		}, "bf16", 96, 16, 512},
		"no limit is no context": {map[string]string{
			"config.json":           `{"model_type": "x", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}`,
			"tokenizer_config.json": `{"model_max_length": 1000000000000000019884624838656}`,
		}, "bf16", 96, 16, 4096},
		"absurd numbers stay numbers": {map[string]string{"config.json": `{"model_type": "x", "hidden_size": 1e300,
			"num_hidden_layers": -4, "num_attention_heads": 0.5, "max_position_embeddings": "many"}`}, "bf16", 96, 0, 4096},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := resolve(t, open(t), folder(t, c.files))
			width := kvWidth()
			if c.quantization == "f32" {
				width = 4
			}
			if m.Quantization != c.quantization || m.WeightBytes != c.weights || m.KVBytesPerToken != c.kv*width || m.Context != c.context {
				t.Errorf("got %+v, want %+v", m, c)
			}
		})
	}
}

func TestDigestIsOfTheContent(t *testing.T) {
	t.Parallel()
	l := open(t)
	first := resolve(t, l, folder(t, nil))
	same := folder(t, map[string]string{"README.md": "other", "model.safetensors.index.json": `{"weight_map": {}}`})
	if err := os.Chtimes(filepath.Join(same, "config.json"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if got := resolve(t, l, same); got.Digest != first.Digest {
		t.Error("the same content has two digests")
	}
	for name, content := range map[string]string{
		"config.json":            strings.Replace(llamaConfig, "2048", "2047", 1),
		"tokenizer.json":         `{ }`,
		"chat_template.jinja":    "x",
		"generation_config.json": "{}",
		"model.safetensors":      string(safetensors(t, 'v', entry{"a", "BF16", []int{4, 8}, 64}, entry{"b", "BF16", []int{16}, 32})),
	} {
		if got := resolve(t, l, folder(t, map[string]string{name: content})); got.Digest == first.Digest {
			t.Errorf("another %s has the same digest", name)
		}
	}
}

func TestDigestOfLongFilesSeesWeights(t *testing.T) {
	t.Parallel()
	const length = 24 << 20
	digest := func(fill byte) string { // of the second half
		weights := safetensors(t, 'w', entry{"a", "U8", []int{length}, length})
		half := weights[len(weights)/2:]
		for i := range half {
			half[i] = fill
		}
		return resolve(t, open(t), folder(t, map[string]string{"model.safetensors": string(weights)})).Digest
	}
	if a, b := digest('a'), digest('b'); a == b {
		t.Error("other weights have the same digest")
	}
	if a, b := digest('a'), digest('a'); a != b {
		t.Error("the same weights have two digests")
	}
}

func TestChangesAreSeen(t *testing.T) {
	t.Parallel()
	l := open(t)
	dir := folder(t, nil)
	first := resolve(t, l, dir)
	write(t, dir, map[string]string{"config.json": strings.Replace(llamaConfig, "2048", "4096", 1)})
	// A change of the same length within the resolution of the clock is what the time below stands for.
	if err := os.Chtimes(filepath.Join(dir, "config.json"), time.Now(), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	second := resolve(t, l, dir)
	if second.Context != 4096 || second.Digest == first.Digest {
		t.Errorf("got %+v after a change, before it %+v", second, first)
	}
	if err := os.Remove(filepath.Join(dir, "tokenizer.json")); err != nil {
		t.Fatal(err)
	}
	refuses(t, l, dir, cluster.CodeBadModel, "tokenizer")
	write(t, dir, map[string]string{"tokenizer.json": "{}"})
	resolve(t, l, dir)
}

func TestList(t *testing.T) {
	t.Parallel()
	root, second := t.TempDir(), t.TempDir()
	files := map[string]string{"config.json": llamaConfig, "tokenizer.json": "{}", "model.safetensors": string(weightsOf(t))}
	hub(t, root, "org/whole", "abc", files)
	hub(t, root, "org/diffusion", "abc", map[string]string{"model_index.json": "{}"})
	hub(t, root, "old", "abc", files)
	hub(t, second, "org/whole", "def", files)
	hub(t, second, "org/second", "def", files)
	write(t, filepath.Join(root, "datasets--org--data"), nil)
	write(t, filepath.Join(root, ".locks"), nil)
	models, err := open(t, root, filepath.Join(root, "none"), second).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range models {
		got = append(got, m.Name+"@"+m.Revision)
	}
	want := []string{"tiny@", "old@abc", "org/second@def", "org/whole@abc"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestEndedContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := open(t)
	if _, _, err := l.Resolve(ctx, "tiny"); !errors.Is(err, context.Canceled) {
		t.Errorf("resolve: %v", err)
	}
	if _, err := l.List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
}
