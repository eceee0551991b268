package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/mlxctl/mlxctl/internal/durable"
)

const big = 256 << 10

// content is one of many that differ in every byte from their neighbours.
func content(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, big) }

func isWhole(data []byte) bool {
	return len(data) == big && bytes.Count(data, data[:1]) == big
}

func roles() map[string]func(args []string) error {
	return map[string]func([]string) error{
		// write writes a file again and again, and says so each time.
		"write": func(args []string) error {
			for i := 0; ; i++ {
				if err := durable.Write(args[0], content(i), 0o600); err != nil {
					return err
				}
				fmt.Fprintln(os.Stdout, i)
			}
		},
		// half is a writer that never comes to its end.
		"half": func(args []string) error {
			r := io.MultiReader(bytes.NewReader(content(1)), saying{}, os.Stdin)
			return durable.WriteFrom(args[0], r, 0o600)
		},
		// script writes a program again and again, and says so once.
		"script": func(args []string) error {
			for i := 0; ; i++ {
				if err := durable.Write(args[0], []byte("#!/bin/sh\n"), 0o700); err != nil {
					return err
				}
				if i == 0 {
					fmt.Fprintln(os.Stdout, "written")
				}
			}
		},
		// small writes more than may be in one file.
		"small": func(args []string) error {
			most := uint64(big / 2)
			if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
				return err
			}
			if err := durable.Write(args[0], content(1), 0o600); !errors.Is(err, syscall.EFBIG) {
				return fmt.Errorf("wrote too much: %w", err)
			}
			return nil
		},
		// nobody writes into a folder that it may only read.
		"nobody": func(args []string) error {
			if err := os.Chdir(filepath.Dir(args[0])); err != nil {
				return err
			}
			if os.Getuid() == 0 {
				if err := syscall.Setuid(65534); err != nil {
					return err
				}
			}
			if err := durable.Write(filepath.Base(args[0]), content(1), 0o600); !errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("wrote where it must not: %w", err)
			}
			return nil
		},
		"hold":  hold,
		"count": count,
	}
}

// saying is a reader that has nothing but says that it was asked.
type saying struct{}

func (saying) Read([]byte) (int, error) {
	fmt.Fprintln(os.Stdout, "half")
	return 0, io.EOF
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func holds(t *testing.T, path string, want []byte, mode fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s holds %.20q of %d bytes, %v", path, got, len(got), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != mode {
		t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, mode)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x [*].json")
	for i, mode := range []fs.FileMode{0o600, 0o644, 0o666, 0o755, 0o400, 0o600} { // 0666 is less by every usual umask
		if err := durable.Write(path, content(i), mode); err != nil {
			t.Fatal(err)
		}
		holds(t, path, content(i), mode)
	}
	if err := durable.Write(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	holds(t, path, nil, 0o600)
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left %q", got)
	}
}

// A link is not followed: what it leads to stays.
func TestWriteReplacesALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := durable.Write(target, content(0), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := durable.Write(link, content(1), 0o600); err != nil {
		t.Fatal(err)
	}
	holds(t, target, content(0), 0o600)
	holds(t, link, content(1), 0o600)
	if info, err := os.Lstat(link); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// A file is whole for who reads it at any moment, also while writers are killed, and what those leave is gone after the next
// write.
func TestWriteKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := durable.Write(path, content(0), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func() {
		if data, err := os.ReadFile(path); err != nil || !isWhole(data) {
			t.Fatalf("read %d bytes, %.20q…, %v", len(data), data, err)
		}
	}
	for round := range 15 {
		w := start(t, "write", path)
		w.says() // it is at work
		for range round * 7 {
			read()
		}
		w.kill()
		read()
	}
	if err := durable.Write(path, content(1), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"f"}) {
		t.Errorf("left %q", got)
	}
}

// What a killed writer leaves is told from what another one is writing, and from files of others.
func TestWriteSweepsWhatWasLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	others := []string{".f.part-", ".f.part-1x", ".g.part-1", "f.part-1"}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	killed, slow := start(t, "half", path), start(t, "half", path)
	for _, w := range []*other{killed, slow} {
		if got := w.says(); got != "half" {
			t.Fatal(got)
		}
	}
	if got := parts(t, dir, "f"); len(got) != 2 {
		t.Fatalf("two write %q", got)
	}
	killed.kill()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not whole is there: %v", err)
	}
	if err := durable.Write(path, content(2), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := parts(t, dir, "f"); len(got) != 1 {
		t.Errorf("one writes %q", got)
	}
	holds(t, path, content(2), 0o600)
	if err := slow.wait(); err != nil {
		t.Error(err)
	}
	holds(t, path, content(1), 0o600)
	want := append(others, "f")
	slices.Sort(want)
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
}

// A program can be run as soon as it has its name. Another process writes it, so that what this one starts has no descriptor
// of it.
func TestProgramRunsAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "program")
	w := start(t, "script", path)
	w.says()
	for range 300 {
		if err := exec.Command(path).Run(); err != nil {
			t.Fatal(err)
		}
	}
}

func parts(t *testing.T, dir, of string) []string {
	t.Helper()
	return slices.DeleteFunc(names(t, dir), func(name string) bool {
		got, ok := durable.PartOf(name)
		return !ok || got != of
	})
}

func TestPartOf(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		".f.part-1": "f", "..f.part-23": ".f", ".a.part-1.part-2": "a.part-1",
		"f.part-1": "", ".part-1": "", "..part-1": "", ".f.part-": "", ".f.part-1a": "", "f": "", "": "",
	} {
		if got, ok := durable.PartOf(name); ok != (want != "") || got != want && ok {
			t.Errorf("%q is of %q, %v", name, got, ok)
		}
	}
}

// Many writers at once, of this process: each wins or loses as a whole, and none disturbs another.
func TestWriteAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	done := make(chan error)
	for i := range 8 {
		go func() {
			for range 10 {
				if err := durable.Write(path, content(i), 0o600); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if data, err := os.ReadFile(path); err != nil || !isWhole(data) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left %q", got)
	}
}

// Where writing fails the old file stays and nothing is left.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"small", "nobody"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			if err := durable.Write(path, content(0), 0o644); err != nil {
				t.Fatal(err)
			}
			if role == "nobody" {
				if err := os.Chmod(dir, 0o555); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
			}
			if err := start(t, role, path).wait(); err != nil {
				t.Error(err)
			}
			holds(t, path, content(0), 0o644)
			if got := names(t, dir); !slices.Equal(got, []string{"f"}) {
				t.Errorf("left %q", got)
			}
		})
	}
	t.Run("reader", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		broken := errors.New("broken")
		r := io.MultiReader(bytes.NewReader(content(1)), reads{broken})
		if err := durable.WriteFrom(path, r, 0o600); !errors.Is(err, broken) || !strings.Contains(err.Error(), path) {
			t.Error(err)
		}
		if got := names(t, dir); len(got) > 0 {
			t.Errorf("left %q", got)
		}
	})
	t.Run("a folder is there", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "f", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := durable.Write(filepath.Join(dir, "f"), content(1), 0o600); err == nil {
			t.Error("replaced a folder")
		}
		if got := names(t, dir); !slices.Equal(got, []string{"f"}) {
			t.Errorf("left %q", got)
		}
		if err := durable.Write(filepath.Join(dir, "no", "f"), content(1), 0o600); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without a folder: %v", err)
		}
	})
}

type reads struct{ err error }

func (r reads) Read([]byte) (int, error) { return 0, r.err }

func TestFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := durable.MkdirAll(deep, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Dir(deep)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	for i := range 2 {
		if err := durable.Write(filepath.Join(deep, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := durable.MkdirAll(filepath.Join(deep, "0", "x"), 0o700); err == nil {
		t.Error("made a folder in a file")
	}
	if err := durable.Rename(filepath.Join(deep, "0"), filepath.Join(deep, "1")); err != nil {
		t.Fatal(err)
	}
	if got := names(t, deep); !slices.Equal(got, []string{"1"}) {
		t.Errorf("there is %q", got)
	}
	for _, name := range []string{"1", "1", "no/2"} {
		if err := durable.Remove(filepath.Join(deep, name)); err != nil {
			t.Error(err)
		}
	}
	if err := durable.Remove(filepath.Join(dir, "a")); err == nil {
		t.Error("removed a folder that is not empty")
	}
	if err := durable.SyncDir(filepath.Join(dir, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("synced nothing: %v", err)
	}
}
