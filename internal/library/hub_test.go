package library_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/library"
)

func hubFiles(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{
		"config.json": llamaConfig, "tokenizer.json": "{}", "model.safetensors": string(weightsOf(t)), "README.md": "x",
	}
}

func TestHub(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	hub(t, root, "org/model-4bit", "aaaa", map[string]string{"config.json": "{}"})
	snapshot := hub(t, root, "org/model-4bit", "0123abcd", hubFiles(t))
	m, dir, err := open(t, root).Resolve(t.Context(), "org/model-4bit")
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "org/model-4bit" || m.Revision != "0123abcd" || m.WeightBytes != 96 || dir != snapshot {
		t.Errorf("got %+v in %s", m, dir)
	}
	other := t.TempDir()
	hub(t, other, "org/model-4bit", "0123abcd", hubFiles(t))
	if again := resolve(t, open(t, other), "org/model-4bit"); again != m {
		t.Errorf("the same snapshot elsewhere is %+v, want %+v", again, m)
	}
}

// The digest of a file that is named by its sha256 is taken from the name.
func TestHubBlobsAreNotRead(t *testing.T) {
	t.Parallel()
	first, second := t.TempDir(), t.TempDir()
	hub(t, first, "org/m", "a", hubFiles(t))
	snapshot := hub(t, second, "org/m", "a", hubFiles(t))
	path, err := filepath.EvalSymlinks(filepath.Join(snapshot, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(weightsOf(t)), "wwww", "vvvv", 1)
	if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, b := resolve(t, open(t, first), "org/m"), resolve(t, open(t, second), "org/m"); a.Digest != b.Digest {
		t.Error("a blob of the same name counts as another")
	}
	if err := os.Rename(path, filepath.Join(filepath.Dir(path), strings.Repeat("f", 64))); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(snapshot, "model.safetensors")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../blobs/"+strings.Repeat("f", 64), link); err != nil {
		t.Fatal(err)
	}
	if a, b := resolve(t, open(t, first), "org/m"), resolve(t, open(t, second), "org/m"); a.Digest == b.Digest {
		t.Error("a blob of another name counts as the same")
	}
}

func TestHubWithoutRef(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	hub(t, root, "org/m", "aaaa", hubFiles(t))
	if err := os.RemoveAll(filepath.Join(root, "models--org--m", "refs")); err != nil {
		t.Fatal(err)
	}
	if m := resolve(t, open(t, root), "org/m"); m.Revision != "aaaa" {
		t.Errorf("got revision %q, want the only one", m.Revision)
	}
	hub(t, root, "org/m", "bbbb", hubFiles(t))
	if err := os.RemoveAll(filepath.Join(root, "models--org--m", "refs")); err != nil {
		t.Fatal(err)
	}
	refuses(t, open(t, root), "org/m", cluster.CodeBadModel, "2 revisions of org/m", "hf download")
}

func TestHubIncomplete(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		spoil func(t *testing.T, base, snapshot string) error
		says  string
	}{
		"blob is missing": {func(_ *testing.T, _, snapshot string) error {
			path, err := filepath.EvalSymlinks(filepath.Join(snapshot, "model.safetensors"))
			if err != nil {
				return err
			}
			return os.Rename(path, path+".incomplete")
		}, "model.safetensors is missing"},
		"link is missing": {func(_ *testing.T, _, snapshot string) error {
			return os.Remove(filepath.Join(snapshot, "model.safetensors"))
		}, "no weights"},
		"only a ref": {func(_ *testing.T, base, _ string) error {
			return os.RemoveAll(filepath.Join(base, "snapshots"))
		}, "the snapshot aaaa is missing"},
		"only blobs": {func(_ *testing.T, base, _ string) error {
			if err := os.RemoveAll(filepath.Join(base, "refs")); err != nil {
				return err
			}
			return os.RemoveAll(filepath.Join(base, "snapshots"))
		}, "downloaded to the end"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			snapshot := hub(t, root, "org/m", "aaaa", hubFiles(t))
			if err := c.spoil(t, filepath.Join(root, "models--org--m"), snapshot); err != nil {
				t.Fatal(err)
			}
			refuses(t, open(t, root), "org/m", cluster.CodeBadModel, c.says, "org/m", "hf download org/m")
		})
	}
}

// A ref that leads out of the cache must not be followed.
func TestHubRefStaysInside(t *testing.T) {
	t.Parallel()
	for _, ref := range []string{"../../../outside", "..", ".", "", "a/b", "\n", strings.Repeat("a", 4000)} {
		parent := t.TempDir()
		root := filepath.Join(parent, "hub")
		base := filepath.Join(root, "models--org--m")
		hub(t, root, "org/m", "aaaa", hubFiles(t))
		for _, dir := range []string{filepath.Join(parent, "outside"), base, filepath.Join(base, "snapshots"), filepath.Join(base, "snapshots", "a", "b")} {
			write(t, dir, hubFiles(t))
		}
		write(t, filepath.Join(base, "refs"), map[string]string{"main": ref})
		refuses(t, open(t, root), "org/m", cluster.CodeBadModel)
	}
}

func TestUnknownNameHints(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, name := range []string{"mlx-community/Qwen3-4B-4bit", "mlx-community/Llama-3.2-3B", "org/other"} {
		hub(t, root, name, "aaaa", hubFiles(t))
	}
	l := open(t, root)
	for name, hint := range map[string]string{
		"Qwen3-4B-4bit":                    "did you mean mlx-community/Qwen3-4B-4bit?",
		"mlx-comunity/qwen3-4b-4bit":       "did you mean mlx-community/Qwen3-4B-4bit?",
		"tinny":                            "did you mean tiny?",
		"tiyn":                             "did you mean tiny?",
		"llama":                            "did you mean mlx-community/Llama-3.2-3B?",
		"google/something-else-altogether": "hf download google/something-else-altogether",
		"zzzzzzzz":                         "mlxctl models",
	} {
		refuses(t, l, name, cluster.CodeNoModel, name, hint)
	}
}

func TestUserHubs(t *testing.T) {
	for name, c := range map[string]struct {
		env map[string]string
		dir string
	}{
		"HF_HUB_CACHE comes first": {map[string]string{"HF_HUB_CACHE": "/hub", "HF_HOME": "/none"}, "/hub"},
		"HF_HOME":                  {map[string]string{"HF_HOME": "/hf", "XDG_CACHE_HOME": "/none"}, "/hf/hub"},
		"XDG_CACHE_HOME":           {map[string]string{"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/hub"},
		"the convention":           {nil, "/.cache/huggingface/hub"},
		"~ is the home folder":     {map[string]string{"HF_HUB_CACHE": "~/here"}, "/here"},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			for _, key := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"} {
				value := c.env[key]
				if strings.HasPrefix(value, "/") {
					value = base + value
				}
				t.Setenv(key, value)
			}
			t.Setenv("HOME", base)
			hub(t, base+c.dir, "org/m", "aaaa", hubFiles(t))
			l, err := library.Open(library.Options{CacheDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			resolve(t, l, "org/m")
		})
	}
}
