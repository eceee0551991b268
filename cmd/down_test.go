package cmd

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/config"
)

func TestDownOfAStoppedClusterAsksNothing(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	wants(t, "down", f.run("y\n", "down"), 0, "Stop mini and this machine?", "1 other machines stopped")
	r := f.run("", "down")
	wants(t, "again", r, 0, "nothing was running")
	wants(t, "again, alone", f.run("", "down", "--local"), 0, "nothing was running")
	wants(t, "and again", f.run("", "down"), 0, "nothing was running")
	if f.logged("stop ") != 1 {
		t.Errorf("%v", f.log)
	}
	// Services that were to run since then may have brought agents back.
	if err := config.WriteFile(filepath.Join(f.home, "run", "desired"), []byte("up\n")); err != nil {
		t.Fatal(err)
	}
	wants(t, "started since", f.run("", "down"), exitUsage, "--yes")
	wants(t, "this machine alone", f.run("", "down", "--local"), 0)
	wants(t, "the others may run", f.run("", "down"), exitUsage, "--yes")
}

func TestPurgeSaysWhatItKeeps(t *testing.T) {
	t.Parallel()
	user := t.TempDir()
	env := map[string]string{"HOME": user, "MLXCTL_HOME": "", "MLXCTL_CACHE": ""}
	dirs, err := config.Locate(func(name string) (string, bool) { v, ok := env[name]; return v, ok }, runtime.GOOS)
	if err != nil {
		t.Fatal(err)
	}
	settings := filepath.Dir(dirs.File)
	for _, dir := range []string{dirs.Home, dirs.Cache, settings} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if r := (invocation{env: env}).run(t, "down", "--purge"); r.code != 0 || !strings.Contains(r.err, "kept: "+dirs.Cache+"\n") {
		t.Errorf("%+v", r)
	}
	for _, gone := range []string{dirs.Home, settings} {
		if _, err := os.Stat(gone); err == nil {
			t.Errorf("%s is left", gone)
		}
	}
	if err := os.Mkdir(dirs.Home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := config.WriteFile(dirs.File, []byte("log_level: info\n")); err != nil {
		t.Fatal(err)
	}
	if r := (invocation{env: env}).run(t, "down", "--purge"); r.code != 0 || !strings.Contains(r.err, "kept: "+dirs.Cache+", "+dirs.File+"\n") {
		t.Errorf("settings of the user's own: %+v", r)
	}
}
