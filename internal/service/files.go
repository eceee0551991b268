package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/mlxctl/mlxctl/internal/durable"
)

// isHeld says that a process holds the lock at path.
func isHeld(path string) (bool, error) {
	l, err := durable.TryLock(path)
	if err == nil {
		l.Release()
	}
	if errors.Is(err, durable.ErrHeld) {
		return true, nil
	}
	if errors.Is(err, fs.ErrNotExist) { // nobody ever made the folder
		return false, nil
	}
	return false, err
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// tail is the last line of a log, for an error that should say more than an exit status.
func tail(path string) string {
	const mostRead, mostSaid = 16 << 10, 500
	f, err := os.Open(path)
	if err != nil {
		return "no log"
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return "no log"
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-mostRead), mostRead))
	if err != nil {
		return "no log"
	}
	data = bytes.TrimSpace(data)
	data = data[bytes.LastIndexByte(data, '\n')+1:]
	// What is no whole character is the log's own, or was cut here.
	return strings.TrimSpace(strings.ToValidUTF8(string(data[:min(len(data), mostSaid)]), ""))
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
	l, err := durable.Lock(ctx, o.run(name))
	if err != nil {
		return nil, err
	}
	return l.Release, nil
}
