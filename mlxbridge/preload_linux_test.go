package mlxbridge

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// library puts a file of this machine's kind, this test itself, at a path.
func library(t *testing.T, path string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFastBLASIsFoundWhereDistributionsKeepIt(t *testing.T) {
	t.Parallel()
	empty, debian, fedora, broken := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	inDebian := library(t, filepath.Join(debian, "openblas-pthread", openBLAS))
	inFedora := library(t, filepath.Join(fedora, openBLAS))
	if err := os.WriteFile(filepath.Join(broken, openBLAS), []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		folders []string
		want    string
	}{
		{"nowhere", []string{empty, filepath.Join(empty, "none")}, ""},
		{"one folder a build", []string{empty, debian}, inDebian},
		{"among all libraries", []string{fedora, debian}, inFedora},
		{"broken before whole", []string{broken, debian}, inDebian},
	} {
		if got := fastBLAS(c.folders); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestFastBLASJoinsWhatIsPreloaded(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	ours := library(t, filepath.Join(folder, openBLAS))
	for _, c := range []struct {
		name    string
		env     []string
		folders []string
		want    string
	}{
		{"alone", []string{"A=1"}, []string{folder}, ours},
		{"before others", []string{"LD_PRELOAD=/x/malloc.so", "A=1"}, []string{folder}, ours + ":/x/malloc.so"},
		{"not over another BLAS", []string{"A=1", "LD_PRELOAD=/x/libblis-blas.so"}, []string{folder}, "/x/libblis-blas.so"},
		{"none there", []string{"A=1"}, nil, ""},
	} {
		env := withFastBLAS(c.env, c.folders)
		var got []string
		for _, entry := range env {
			if value, ok := strings.CutPrefix(entry, "LD_PRELOAD="); ok {
				got = append(got, value)
			}
		}
		if strings.Join(got, " ") != c.want || len(got) > 1 || !slices.Contains(env, "A=1") {
			t.Errorf("%s: %q", c.name, env)
		}
	}
}

// What the worker says is what was given to it.
func TestWorkerEnvironmentHasTheFastBLASOfThisMachine(t *testing.T) {
	t.Parallel()
	env := withFastBLAS(workerEnv([]string{"PATH=/bin"}, "/source"), blasFolders())
	want := fastBLAS(blasFolders())
	if got := slices.Contains(env, "LD_PRELOAD="+want); got != (want != "") {
		t.Errorf("%q in %q", want, env)
	}
}
