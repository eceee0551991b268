package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// newCopied prepares a home whose services run out of a copy, below a folder.
func newCopied(t *testing.T, versions string) Options {
	t.Helper()
	t.Setenv("SERVICE_TEST_VERSIONS", versions)
	o := newHome(t, "child")
	o.Exe = filepath.Join(t.TempDir(), "mlxctl")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err == nil {
		err = os.WriteFile(o.Exe, data, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func copies(t *testing.T, o Options) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(o.Versions, "*", copyName))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The version before can be put back when its binary is long replaced.
func TestGoesBackToACopy(t *testing.T) {
	o := newCopied(t, filepath.Join(t.TempDir(), "versions"))
	// What keeper and children would call their version, had it not been given to them with their copy.
	t.Setenv("SERVICE_TEST_VERSION", "of nobody")
	first := start(t, o)
	if first.Version != "v1" || filepath.Dir(filepath.Dir(first.Exe)) != o.Versions {
		t.Errorf("runs %q out of %s", first.Version, first.Exe)
	}
	if changed, err := Start(t.Context(), o); changed || err != nil {
		t.Errorf("the same again: changed %v, %v", changed, err)
	}
	if err := os.WriteFile(o.Exe+".new", []byte("#!/bin/sh\necho no such library >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(o.Exe+".new", o.Exe); err != nil {
		t.Fatal(err)
	}
	o.Version = "v2"
	changed, err := Start(t.Context(), o)
	if !changed || err == nil || !strings.Contains(err.Error(), "no such library") {
		t.Errorf("a bad one: changed %v, %v", changed, err)
	}
	o.Exe, o.Version, o.Settings = first.Exe, first.Version, first.Settings
	if changed, err := Start(t.Context(), o); err != nil || !changed {
		t.Fatalf("back: changed %v, %v", changed, err)
	}
	if back := running(t, o, pids(first)); back.Version != "v1" || back.Exe != first.Exe {
		t.Errorf("back: %+v", back)
	}
}

func TestCopiesOfOldVersionsGo(t *testing.T) {
	o := newCopied(t, filepath.Join(t.TempDir(), "versions"))
	var last []string
	for _, v := range []string{"v1", "v2", "v3"} {
		o.Version = v
		s := start(t, o)
		last = append(last, filepath.Dir(s.Exe))
	}
	onlyLastTwo(t, o, last)
	// The version stays, so the one before it is the same.
	t.Setenv("SERVICE_TEST_SETTINGS", "s2")
	o.Settings = "s2"
	start(t, o)
	onlyLastTwo(t, o, last)
	if err := Stop(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	start(t, o)
	onlyLastTwo(t, o, last)
}

func onlyLastTwo(t *testing.T, o Options, last []string) {
	t.Helper()
	got := strings.Join(copies(t, o), " ")
	if !strings.Contains(got, last[1]) || !strings.Contains(got, last[2]) || strings.Contains(got, last[0]) {
		t.Errorf("left %s, of %v", got, last)
	}
}

// A binary that cannot be read changes nothing: what runs goes on.
func TestNoBinaryNoChange(t *testing.T) {
	o := newCopied(t, filepath.Join(t.TempDir(), "versions"))
	changesNothing(t, o, "cannot copy", func(next Options) (bool, error) {
		next.Exe += ".missing"
		return Start(t.Context(), next)
	})
}

// changesNothing has another version started in a way that cannot copy it.
func changesNothing(t *testing.T, o Options, says string, startNext func(next Options) (bool, error)) {
	t.Helper()
	before := start(t, o)
	kept := copies(t, o)
	next := o
	next.Version = "v2"
	changed, err := startNext(next)
	if changed || cluster.CodeOf(err) != cluster.CodeConflict || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
		t.Errorf("changed %v, %v, want %q", changed, err, says)
	}
	if now, err := Read(o); err != nil || !now.Running || now.Keeper.PID != before.Keeper.PID || now.Children[0].PID != before.Children[0].PID {
		t.Errorf("%+v, %v", now, err)
	}
	if now := copies(t, o); strings.Join(now, " ") != strings.Join(kept, " ") {
		t.Errorf("left %v, before %v", now, kept)
	}
}
