package controller

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestLogFileShowsTheEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(path, []byte("1\n2\n3\n4\n5\n6\n7\nhalf"), 0o600); err != nil {
		t.Fatal(err)
	}
	for tail, want := range map[int]string{0: "1 2 3 4 5 6 7", 1: "7", 3: "5 6 7", 100: "1 2 3 4 5 6 7"} {
		var got []string
		err := (&logFile{path: path}).show(t.Context(), tail, false, func(s string) error { got = append(got, s); return nil })
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("last %d: %q, %v, want %q", tail, got, err, want)
		}
	}
	err := (&logFile{path: path + "x"}).show(t.Context(), 0, false, nil)
	if cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("a log that is not there: %v", err)
	}
}

func TestLogFileFollowsThroughRotation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write("1\n")
	ctx, cancel := context.WithCancel(t.Context())
	lines := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- (&logFile{path: path}).show(ctx, 0, true, func(s string) error { lines <- s; return nil })
	}()
	var got []string
	next := func() { got = append(got, <-lines) }
	next()
	write("2\nhal")
	next()
	write("f\n")
	next()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("3\n")
	next()
	cancel()
	if err := <-done; cluster.CodeOf(err) != cluster.CodeCancelled {
		t.Errorf("ended with %v", err)
	}
	if want := []string{"1", "2", "half", "3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
