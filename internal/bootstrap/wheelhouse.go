package bootstrap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

const (
	wheelsStamp = "files.json"
	mostSaid    = 64 << 10
)

// WheelsFor says which packages are wanted, and who fetches them.
type WheelsFor struct {
	// Lock is the list of packages with their hashes, in the form of pip's requirements.
	Lock string
	// OS and Arch are as Go names them; Python is "3.12".
	OS, Arch, Python string
	// Interpreter is a Python on this machine that has pip.
	Interpreter string
	// Progress hears a line for people now and then; nil means nobody does.
	Progress func(string)
}

// Wheelhouse returns a folder below cacheDir with the packages for a platform, and its files. It fetches them first where
// they are not there; the folder is used only once it is whole. Several processes may call it at the same time.
func Wheelhouse(ctx context.Context, cacheDir string, w WheelsFor) (dir string, files []plan.File, err error) {
	if !python.MatchString(w.Python) {
		return "", nil, cluster.Errorf(cluster.CodeInvalid, "no packages can be chosen for Python %q", untrusted.Line(w.Python, mostName)).
			WithHint("there: install a Python that workers can run in")
	}
	requirements, err := lockFor(w)
	if err != nil {
		return "", nil, err
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{w.OS, w.Arch, w.Python, requirements}, "\n")))
	root := filepath.Join(cacheDir, "wheels")
	dir = filepath.Join(root, hex.EncodeToString(sum[:])[:16])
	if files, ok := stamped(dir); ok {
		return dir, files, nil
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", nil, cluster.Errorf(cluster.CodeInternal, "make folder of python packages: %v", err)
	}
	release, err := lockFolder(ctx, root)
	if err != nil {
		return "", nil, err
	}
	defer release()
	if files, ok := stamped(dir); ok { // by whoever held the lock
		return dir, files, nil
	}
	if err := fetch(ctx, dir, requirements, w); err != nil {
		return "", nil, err
	}
	if files, err = stampFolder(dir); err != nil {
		return "", nil, cluster.Errorf(cluster.CodeInternal, "keep python packages: %v", err)
	}
	return dir, files, nil
}

// stamped returns the files of a folder that is whole.
func stamped(dir string) ([]plan.File, bool) {
	data, err := os.ReadFile(filepath.Join(dir, wheelsStamp))
	var files []plan.File
	if err != nil || json.Unmarshal(data, &files) != nil {
		return nil, false
	}
	for _, f := range files {
		if info, err := os.Stat(filepath.Join(dir, f.Name)); err != nil || info.Size() != f.Bytes {
			return nil, false
		}
	}
	return files, true
}

// stampFolder writes down what is in a folder, last.
func stampFolder(dir string) ([]plan.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := []plan.File{}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".whl") {
			continue
		}
		sum, size, err := digest(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, plan.File{Name: e.Name(), Bytes: size, SHA256: sum})
	}
	data, err := json.MarshalIndent(files, "", "  ")
	if err != nil {
		return nil, err
	}
	staged := filepath.Join(dir, wheelsStamp+".new")
	if err := os.WriteFile(staged, data, 0o600); err != nil {
		return nil, err
	}
	return files, os.Rename(staged, filepath.Join(dir, wheelsStamp))
}

func lockFolder(ctx context.Context, root string) (release func(), err error) {
	l, err := durable.Lock(ctx, filepath.Join(root, "lock"))
	if err == nil {
		return l.Release, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, cluster.Errorf(cluster.CodeInternal, "lock python packages: %v", err)
}

// fetch downloads what the list names. pip checks every hash, and keeps what is there already, so that a download that was
// interrupted goes on.
func fetch(ctx context.Context, dir, requirements string, w WheelsFor) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return cluster.Errorf(cluster.CodeInternal, "make folder of python packages: %v", err)
	}
	list := filepath.Join(dir, "requirements.txt")
	if err := os.WriteFile(list, []byte(requirements), 0o600); err != nil {
		return cluster.Errorf(cluster.CodeInternal, "write list of packages: %v", err)
	}
	if w.Progress != nil {
		w.Progress("fetching the Python packages for " + w.OS + " on " + w.Arch + ", once")
	}
	// The list is complete, and without conditions: what pip would evaluate them for is this machine.
	args := []string{
		"-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-input", "--progress-bar", "off",
		"--disable-pip-version-check", "--implementation", "cp", "--python-version", w.Python, "--dest", dir, "--requirement", list,
	}
	for _, tag := range platformTags(w.OS, w.Arch) {
		args = append(args, "--platform", tag)
	}
	cmd := exec.CommandContext(ctx, w.Interpreter, args...)
	said := &limited{most: mostSaid}
	var last bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = said, &last, pipeWait
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		text := lastLine(last.Bytes())
		if text == "" {
			text = err.Error()
		}
		return cluster.Errorf(cluster.CodeInternal, "fetch python packages for %s on %s: %s", w.OS, w.Arch, text).
			WithHint("it needs pip for %s and the package index of PyPI or a mirror (PIP_INDEX_URL)", w.Interpreter)
	}
	return nil
}

// platformTags lists the platforms whose wheels run on every host that mlxctl supports, best first.
func platformTags(goos, goarch string) []string {
	if goos == "darwin" {
		return []string{"macosx_14_0_arm64"}
	}
	machine := machineOf(goarch)
	var out []string
	for _, libc := range []string{"2_35", "2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17"} {
		out = append(out, "manylinux_"+libc+"_"+machine)
	}
	return append(out, "manylinux2014_"+machine, "manylinux2010_"+machine, "manylinux1_"+machine, "linux_"+machine)
}

// machineOf is how Linux and Python name what Go names goarch.
func machineOf(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return goarch
}

// lockFor returns the part of the list that holds for a platform, without its conditions.
func lockFor(w WheelsFor) (string, error) {
	env := map[string]string{
		"sys_platform": w.OS, "platform_machine": machineOf(w.Arch), "python_version": w.Python, "python_full_version": w.Python,
	}
	if w.OS == "darwin" {
		env["platform_machine"] = w.Arch
	}
	var out []string
	keep := false
	for line := range strings.Lines(w.Lock) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.TrimSpace(line) == "" || strings.HasPrefix(strings.TrimSpace(line), "#"):
			continue
		case line[0] != ' ' && line[0] != '\t': // a package; what is indented belongs to it
			head, rest, hasMarker := strings.Cut(line, ";")
			keep = true
			if hasMarker {
				condition := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), `\`))
				var err error
				if keep, err = holds(condition, env); err != nil {
					return "", cluster.Errorf(cluster.CodeInternal, "read list of packages: %q: %v", untrusted.Line(condition, mostDetail), err)
				}
				line = strings.TrimSpace(head)
				if strings.HasSuffix(strings.TrimSpace(rest), `\`) {
					line += ` \`
				}
			}
		}
		if keep {
			out = append(out, line)
		}
	}
	return strings.Join(slices.Clip(out), "\n") + "\n", nil
}
