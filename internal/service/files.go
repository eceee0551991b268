package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	l, err := durable.Lock(ctx, o.run(name))
	if err != nil {
		return nil, err
	}
	return l.Release, nil
}
