package durable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld says that another process, or another part of this one, holds a lock.
var ErrHeld = errors.New("the lock is held")

const (
	// A lock is tried again after firstWait, and then less and less often, but after mostWait at the latest: a system has
	// no way to wait for one that a context could end.
	firstWait = time.Millisecond
	mostWait  = 50 * time.Millisecond
)

// FileLock is a lock that one holder at a time has, also among processes. It is free again when its process dies in any way.
type FileLock struct {
	f    *os.File
	path string
}

// TryLock takes the lock of the file at path, which is made, readable by its owner alone, where it is missing; or that of the
// folder at path. The error is ErrHeld where somebody else has it. One refusal says little: a status that looks at a lock in
// this way has it for an instant.
func TryLock(path string) (*FileLock, error) {
	f, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	l := &FileLock{f, path}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && l.Holds() {
		return l, nil
	}
	l.Release()
	if err == nil || errors.Is(err, unix.EWOULDBLOCK) {
		// Without an error, who held it has removed it, perhaps with its whole folder: others lock what comes then.
		return nil, ErrHeld
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Lock is TryLock that waits until ctx ends. Nobody is preferred for waiting long.
func Lock(ctx context.Context, path string) (*FileLock, error) {
	for wait := firstWait; ; wait = min(2*wait, mostWait) {
		l, err := TryLock(path)
		if !errors.Is(err, ErrHeld) {
			return l, err
		}
		again := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			again.Stop()
			return nil, fmt.Errorf("wait for lock %s: %w", path, context.Cause(ctx))
		case <-again.C:
		}
	}
}

// Holds says that what is at the lock's path is what is locked: a file that was deleted and made anew is another.
func (l *FileLock) Holds() bool { return isAt(l.f, l.path) }

// Release lets go of the lock. Its file stays: whoever removes it does so before.
func (l *FileLock) Release() { _ = l.f.Close() } // nothing was written

func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, unix.EISDIR) {
		return os.Open(path)
	}
	return f, err
}

// flock locks an open file. The lock ends when the file is closed.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// isAt says that the file that is open is the one at path.
func isAt(f *os.File, path string) bool {
	mine, err1 := f.Stat()
	there, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(mine, there)
}
