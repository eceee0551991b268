package library_test

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/library"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entry is a tensor for a made-up file of weights.
type entry struct {
	name, dtype string
	shape       []int
	bytes       int
}

// safetensors makes a file of weights whose content is fill.
func safetensors(t *testing.T, fill byte, entries ...entry) []byte {
	t.Helper()
	header := map[string]any{"__metadata__": map[string]string{"format": "mlx"}}
	at := 0
	for _, e := range entries {
		header[e.name] = map[string]any{"dtype": e.dtype, "shape": e.shape, "data_offsets": []int{at, at + e.bytes}}
		at += e.bytes
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	data := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	data = append(data, text...)
	return append(data, []byte(strings.Repeat(string(rune(fill)), at))...)
}

const llamaConfig = `{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
	"num_key_value_heads": 2, "max_position_embeddings": 2048}`

// weightsOf is a whole file of 16-bit weights, 96 bytes of them.
func weightsOf(t *testing.T) []byte {
	t.Helper()
	return safetensors(t, 'w', entry{"a", "BF16", []int{4, 8}, 64}, entry{"b", "BF16", []int{16}, 32})
}

// write makes a folder of files.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// folder makes a model folder; more replaces files, or removes those that are "".
func folder(t *testing.T, more map[string]string) string {
	t.Helper()
	files := map[string]string{
		"config.json": llamaConfig, "tokenizer.json": `{}`, "model.safetensors": string(weightsOf(t)),
	}
	for name, content := range more {
		if files[name] = content; content == "" {
			delete(files, name)
		}
	}
	dir := t.TempDir()
	write(t, dir, files)
	return dir
}

// hub makes a snapshot as the Hugging Face libraries do: files are links to blobs; large ones are named by sha256.
func hub(t *testing.T, root, name, revision string, files map[string]string) string {
	t.Helper()
	base := filepath.Join(root, "models--"+strings.ReplaceAll(name, "/", "--"))
	snapshot := filepath.Join(base, "snapshots", revision)
	write(t, snapshot, nil)
	write(t, filepath.Join(base, "refs"), map[string]string{"main": revision})
	for file, content := range files {
		blob := strings.Repeat("0", 30) + hexOf(file+content)
		if strings.HasSuffix(file, ".safetensors") {
			blob = strings.Repeat("0", 54) + hexOf(file+content)
		}
		write(t, filepath.Join(base, "blobs"), map[string]string{blob: content})
		if err := os.Symlink(filepath.Join("..", "..", "blobs", blob), filepath.Join(snapshot, file)); err != nil {
			t.Fatal(err)
		}
	}
	return snapshot
}

// hexOf is 10 hexadecimal digits that differ where texts differ.
func hexOf(text string) string {
	sum := uint64(14695981039346656037)
	for i := range len(text) {
		sum = (sum ^ uint64(text[i])) * 1099511628211
	}
	const digits = "0123456789abcdef"
	out := make([]byte, 10)
	for i := range out {
		out[i] = digits[sum>>(4*i)&15]
	}
	return string(out)
}

func open(t *testing.T, hubs ...string) *library.Library {
	t.Helper()
	l, err := library.Open(library.Options{CacheDir: t.TempDir(), HubDirs: append([]string{}, hubs...)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func resolve(t *testing.T, l *library.Library, name string) cluster.Model {
	t.Helper()
	m, _, err := l.Resolve(t.Context(), name)
	if err != nil {
		t.Fatalf("resolve %s: %v", name, err)
	}
	return m
}

// refuses wants an error with a code that says all of what.
func refuses(t *testing.T, l *library.Library, name string, code cluster.Code, what ...string) {
	t.Helper()
	_, _, err := l.Resolve(t.Context(), name)
	if cluster.CodeOf(err) != code {
		t.Fatalf("got %v (%s), want %s", err, cluster.CodeOf(err), code)
	}
	e := cluster.AsError(err)
	for _, w := range what {
		if text := e.Message + "\n" + e.Hint; !strings.Contains(text, w) {
			t.Errorf("error %q does not say %q", text, w)
		}
	}
}
