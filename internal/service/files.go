package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lock is a file that one process at a time can hold; it is free again when that process dies in any way.
type lock struct{ f *os.File }

// tryLock takes the lock at path; nil where another process holds it.
func tryLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return &lock{f}, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// lockWithin waits for the lock until ctx ends.
func lockWithin(ctx context.Context, path string) (*lock, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		l, err := tryLock(path)
		if l != nil || err != nil {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for lock %s: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

func (l *lock) release() { _ = l.f.Close() }

// isStill says that the file at path is the one that is locked: a home that was deleted and made anew has another.
func (l *lock) isStill(path string) bool {
	mine, err1 := l.f.Stat()
	there, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(mine, there)
}

// isHeld says that a process holds the lock at path.
func isHeld(path string) (bool, error) {
	l, err := tryLock(path)
	if err != nil {
		return false, err
	}
	if l == nil {
		return true, nil
	}
	l.release()
	return false, nil
}

func writeAtomic(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// tail is the last line of a log, for an error that should say more than an exit status.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "no log"
	}
	data = bytes.TrimSpace(data)
	if i := bytes.LastIndexByte(data, '\n'); i >= 0 {
		data = data[i+1:]
	}
	const most = 500
	if len(data) > most {
		data = data[:most]
	}
	return strings.TrimSpace(string(data))
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// Lock waits, until ctx ends, for the lock that the file name in the run folder of a home is: for what several commands must
// not do to one home at the same time, but which is not the start or the stop of its services.
func Lock(ctx context.Context, home, name string) (release func(), err error) {
	o := Options{Home: home}
	if err := o.makeDirs(); err != nil {
		return nil, err
	}
	l, err := lockWithin(ctx, o.run(name))
	if err != nil {
		return nil, err
	}
	return l.release, nil
}
