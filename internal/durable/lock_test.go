package durable_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mlxctl/mlxctl/internal/durable"
)

// hold takes a lock and keeps it until standard input ends.
func hold(args []string) error {
	l, err := durable.Lock(context.Background(), args[0])
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "held")
	_, err = io.Copy(io.Discard, os.Stdin)
	l.Release()
	return err
}

const each = 40

// count adds 1 to the number in a file, often.
func count(args []string) error {
	for range each {
		l, err := durable.Lock(context.Background(), args[0])
		if err != nil {
			return err
		}
		data, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(data))
		if err != nil {
			return err
		}
		if err := os.WriteFile(args[1], []byte(strconv.Itoa(n+1)), 0o600); err != nil {
			return err
		}
		l.Release()
	}
	return nil
}

// asked is a context that tells when it was first asked for its end: by who waits.
type asked struct {
	context.Context //nolint:containedctx // it is one
	once            sync.Once
	done            chan struct{}
}

func (a *asked) Done() <-chan struct{} {
	a.once.Do(func() { close(a.done) })
	return a.Context.Done()
}

func TestLockOfTwoProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "lock"), dir} {
		holder := start(t, "hold", path)
		holder.says()
		if l, err := durable.TryLock(path); !errors.Is(err, durable.ErrHeld) || l != nil {
			t.Fatalf("%s: %v, %v", path, l, err)
		}
		given := errors.New("given up")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(given)
		if _, err := durable.Lock(ctx, path); !errors.Is(err, given) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		waits := &asked{Context: t.Context(), done: make(chan struct{})}
		got := make(chan error)
		go func() {
			l, err := durable.Lock(waits, path)
			if err == nil {
				l.Release()
			}
			got <- err
		}()
		select {
		case err := <-got:
			t.Fatalf("%s: two have it: %v", path, err)
		case <-waits.done:
		}
		holder.kill() // a lock ends with its process
		if err := <-got; err != nil {
			t.Errorf("%s: %v", path, err)
		}
		l, err := durable.TryLock(path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		l.Release()
	}
	if info, err := os.Stat(filepath.Join(dir, "lock")); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("the lock of a folder made %q", got)
	}
	if _, err := durable.TryLock(filepath.Join(dir, "no", "lock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no folder: %v", err)
	}
}

func TestLockLetsOneAtATime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lock, number := filepath.Join(dir, "lock"), filepath.Join(dir, "number")
	if err := os.WriteFile(number, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	procs := []*other{start(t, "count", lock, number), start(t, "count", lock, number), start(t, "count", lock, number)}
	for _, p := range procs {
		if err := p.wait(); err != nil {
			t.Error(err)
		}
	}
	if got, err := os.ReadFile(number); err != nil || string(got) != strconv.Itoa(len(procs)*each) {
		t.Errorf("counted %s, %v", got, err)
	}
}

// The lock of a file that was deleted and made anew is held by who locked it since.
func TestLockOfARemadeFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	first, err := durable.TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Release()
	if !first.Holds() {
		t.Error("does not hold what it locked")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if first.Holds() {
		t.Error("holds a file that is gone")
	}
	second, err := durable.TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Release()
	if first.Holds() || !second.Holds() {
		t.Errorf("held by the first %v, by the second %v", first.Holds(), second.Holds())
	}
}

// Holders that remove the file while others wait for it: those must not take what is gone for the lock.
func TestLockWhoseHoldersRemoveIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				l, err := durable.Lock(t.Context(), path)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d have the lock", n)
				}
				inside.Add(-1)
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
				l.Release()
			}
		})
	}
	wg.Wait()
}
