package bootstrap_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func reader(data []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(data)) }

func entries(tb testing.TB, dir string) (names []string) {
	tb.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestPut(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	dir := filepath.Join(f.home, "versions of Fred's", "1")
	path := filepath.Join(dir, "mlx ctl")
	first, second := bytes.Repeat([]byte("one\x00\r\n"), 300000), []byte("two")
	if changed, err := b.PutFile(t.Context(), h, path, hashOf(first), reader(first)); err != nil || !changed {
		t.Fatal(changed, err)
	}
	info, err := os.Stat(path)
	if got, _ := os.ReadFile(path); err != nil || !bytes.Equal(got, first) || info.Mode().Perm() != 0o644 {
		t.Fatalf("file has %d bytes, want %d; %v, %v", len(got), len(first), info, err)
	}
	if folder, err := os.Stat(dir); err != nil || folder.Mode().Perm() != 0o700 {
		t.Errorf("folder is %v, %v", folder.Mode(), err)
	}
	if changed, err := b.PutFile(t.Context(), h, path, hashOf(first), reader(nil)); err != nil || changed {
		t.Errorf("copied again: %v, %v", changed, err)
	}
	if _, err := b.PutFile(t.Context(), h, path, hashOf(second), reader(second)); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || os.SameFile(info, after) {
		t.Errorf("the file was written over, %v", err)
	}
	_, err = b.PutFile(t.Context(), h, path, hashOf(first), reader([]byte("neither")))
	if err == nil || cluster.AsError(err).Hint == "" {
		t.Errorf("a wrong hash gave %v", err)
	}
	has(t, err.Error(), "hash is "+hashOf([]byte("neither")))
	if got, _ := os.ReadFile(path); string(got) != "two" {
		t.Errorf("file is %q", got)
	}
	if _, err := b.PutFile(t.Context(), h, "/proc/nowhere/x", hashOf(second), reader(second)); err == nil {
		t.Error("a folder that cannot be made gave no error")
	}
	home := filepath.Join(f.home, ".mlxctl")
	write(t, home, []byte("a file"))
	_, err = b.PutFile(t.Context(), h, filepath.Join(home, "versions", "v1", "mlxctl"), hashOf(second), reader(second))
	if err == nil {
		t.Fatal("a file in place of the home gave no error")
	}
	has(t, err.Error(), "a file is where a folder of that path should be")
	has(t, cluster.AsError(err).Hint, home+" needs to be a folder")
	for _, path := range []string{"relative", "/a/../b", ""} {
		if _, err := b.PutFile(t.Context(), h, path, hashOf(second), reader(second)); err == nil {
			t.Errorf("%q gave no error", path)
		}
	}
}

func TestScriptsRunInAnyShellOfAUser(t *testing.T) {
	t.Parallel()
	word := "it's a \\'\"$HOME\n`x` !%"
	for _, name := range []string{"sh", "dash", "bash", "zsh", "fish"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Logf("no %s here", name)
			continue
		}
		out, err := exec.Command(path, "-c", bootstrap.Shell("printf %s "+bootstrap.Quote(word))).CombinedOutput()
		if err != nil || string(out) != word {
			t.Errorf("%s says %q, %v, want %q", name, out, err, word)
		}
	}
}

// stuck gives some bytes, then nothing more until it is closed.
type stuck struct {
	first io.Reader
	begun chan struct{}
	over  <-chan struct{}
}

func (s *stuck) Read(p []byte) (int, error) {
	if n, err := s.first.Read(p); err == nil {
		return n, nil
	}
	select {
	case <-s.begun:
	default:
		close(s.begun)
	}
	<-s.over
	return 0, errors.New("interrupted")
}

func (s *stuck) Close() error { return nil }

func TestInterruptedPutLeavesNothingInPlace(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	dir := filepath.Join(f.home, "versions")
	path := filepath.Join(dir, "mlxctl")
	ctx, cancel := context.WithCancel(t.Context())
	data := bytes.Repeat([]byte("x"), 1<<20)
	s := &stuck{first: bytes.NewReader(data), begun: make(chan struct{}), over: ctx.Done()}
	go func() { <-s.begun; cancel() }()
	if _, err := b.PutFile(ctx, h, path, hashOf(append(data, 'x')), s); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("half a file is in place")
	}
	eventually(t, "what was written is swept", func() bool { return len(entries(t, dir)) == 0 })
	// One that was killed could not sweep; the next one does, once it is old.
	left, fresh := filepath.Join(dir, ".put.1.mlxctl"), filepath.Join(dir, ".put.2.mlxctl")
	write(t, left, []byte("half"))
	write(t, fresh, []byte("half"))
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := b.PutFile(t.Context(), h, path, hashOf(data), reader(data)); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, dir); len(got) != 2 || got[0] != filepath.Base(fresh) {
		t.Errorf("folder has %q", got)
	}
}
