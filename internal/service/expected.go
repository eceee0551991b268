package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// IsExpected says whether the services of a home are to run, or a command is about to start or stop them: who finds them away
// then may find them there a little later.
func IsExpected(o Options) (bool, error) {
	for range 2 { // a command that ends between the two looks has put up what it wants
		_, err := os.Stat(o.run("desired"))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("look whether services are to run: %w", err)
		}
		if _, err := os.Stat(o.run("op.lock")); err != nil {
			return false, nil // nobody ever started any
		}
		held, err := isHeld(o.run("op.lock"))
		if held || err != nil {
			return held, err
		}
	}
	return false, nil
}
