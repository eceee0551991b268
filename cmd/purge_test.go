package cmd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/mlxctl/mlxctl/internal/config"
)

// What a command that was killed was writing, which may be a secret, goes with what it was to become.
func TestPurgeRemovesWhatWasBeingWritten(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "home")
	dirs := config.Dirs{Home: home, File: filepath.Join(home, "config.yaml")}
	write := func(names ...string) {
		for _, name := range names {
			if err := config.WriteFile(filepath.Join(home, name), []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	ours := []string{"roster.json", ".roster.json.part-1", ".config.yaml.part-23", "trust/api.key", "trust/.api.key.part-4"}
	const mine = ".thesis.txt.part-5"
	write(append(ours, mine)...)
	if err := purge(dirs); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(home); err != nil || len(left) != 1 || left[0].Name() != mine {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := os.Remove(filepath.Join(home, mine)); err != nil {
		t.Fatal(err)
	}
	write(ours...)
	for range 2 {
		if err := purge(dirs); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(home); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the home is left: %v", err)
		}
	}
}
