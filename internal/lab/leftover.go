package lab

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dirs is where labs have their folders: one that is empty on this machine, but for the state.
const (
	dirs      = "/tmp"
	dirPrefix = "mlxctl-lab-"
	stateName = "lab.json"
)

// state is what is known of a lab by whoever did not make it. It lies beside the lab's folder: that is a mount
// point, and what is in it is seen inside only.
type state struct {
	Dir      string `json:"dir"`
	Owner    int    `json:"owner"` // pid of who made it
	OwnerAge string `json:"owner_age"`
	Anchor   int    `json:"anchor"` // pid of what holds its namespaces
	// AnchorAge is when the anchor was started, so that a pid that is used again is not taken for it.
	AnchorAge string `json:"anchor_age"`
	Standing  bool   `json:"standing"`
}

// makeDir makes a folder whose name tells whose it is.
func makeDir() (string, error) {
	dir := filepath.Join(dirs, dirPrefix+strconv.Itoa(os.Getpid())+"-"+strings.ToLower(rand.Text()[:6]))
	return dir, os.Mkdir(dir, 0o755)
}

func writeState(dir string, anchor int, standing bool) (state, error) {
	s := state{
		Dir: dir, Owner: os.Getpid(), OwnerAge: startedAt(os.Getpid()),
		Anchor: anchor, AnchorAge: startedAt(anchor), Standing: standing,
	}
	data, err := json.Marshal(s)
	if err != nil {
		return s, err
	}
	return s, os.WriteFile(dir+"."+stateName, data, 0o600)
}

func removeDir(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the lab's folder: %w", err)
	}
	if err := os.Remove(dir + "." + stateName); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the lab's state: %w", err)
	}
	return nil
}

// startedAt is when a process was started, in the kernel's words; "" when there is none.
func startedAt(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name of the program may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

func alive(pid int, age string) bool { return age != "" && startedAt(pid) == age }

// Sweep removes what labs left whose makers are dead. A lab that was told to stand is left alone.
func Sweep(ctx context.Context) error {
	found, err := list()
	if err != nil {
		return err
	}
	for _, s := range found {
		if alive(s.Owner, s.OwnerAge) || s.Standing && alive(s.Anchor, s.AnchorAge) {
			continue
		}
		if err := s.remove(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Remove ends the labs that stand, or those of them in these folders, and says which it ended.
func Remove(ctx context.Context, dirs ...string) ([]string, error) {
	found, err := list()
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, s := range found {
		if !s.Standing || len(dirs) > 0 && !slices.Contains(dirs, s.Dir) {
			continue
		}
		if err := s.remove(ctx); err != nil {
			return gone, err
		}
		gone = append(gone, s.Dir)
	}
	return gone, Sweep(ctx)
}

// list reads the states of all labs. A folder without one is of a lab that is being made, or of one whose maker died
// at that; its name says whose it is.
func list() ([]state, error) {
	paths, err := filepath.Glob(filepath.Join(dirs, dirPrefix+"*"))
	if err != nil {
		return nil, err
	}
	var all []state
	seen := map[string]bool{}
	for _, p := range paths {
		dir := strings.TrimSuffix(p, "."+stateName)
		if seen[dir] {
			continue
		}
		seen[dir] = true
		s := state{}
		data, err := os.ReadFile(dir + "." + stateName)
		switch {
		case err == nil && json.Unmarshal(data, &s) == nil && s.Dir == dir:
		default:
			owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
			pid, err := strconv.Atoi(owner)
			if err != nil {
				continue // not ours
			}
			s = state{Dir: dir, Owner: pid, OwnerAge: startedAt(pid)}
		}
		all = append(all, s)
	}
	return all, nil
}

func (s state) remove(ctx context.Context) error {
	if alive(s.Anchor, s.AnchorAge) {
		if err := kill(s.Anchor); err != nil {
			return fmt.Errorf("end lab %s: %w", s.Dir, err)
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	after := time.After(closeTime)
	for alive(s.Anchor, s.AnchorAge) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-after:
			return fmt.Errorf("lab %s does not end", s.Dir)
		case <-tick.C:
		}
	}
	return removeDir(s.Dir)
}

func kill(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
