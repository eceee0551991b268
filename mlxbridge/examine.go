package mlxbridge

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// mostConfigBytes is more than any config.json has.
const mostConfigBytes = 8 << 20

// examiner is a Launcher that can refuse a folder without loading it.
type examiner interface {
	// Examine says why the model of a folder can never be loaded; nil where that is not known.
	Examine(name, dir string) error
}

// Examine refuses what config.json alone tells cannot be loaded. Whatever else is wrong with a folder, a launch finds
// out.
func (l *WorkerLauncher) Examine(name, dir string) error {
	var config struct {
		ModelType string `json:"model_type"`
		ModelFile any    `json:"model_file"`
	}
	if data := readRegular(filepath.Join(dir, "config.json")); data == nil || json.Unmarshal(data, &config) != nil {
		return nil
	}
	refuse := func(why string) error {
		err := cluster.Errorf(cluster.CodeUnsupported, "model %s cannot be loaded: %s", name, why)
		err.Field = "model"
		return err
	}
	switch code := config.ModelFile; code {
	case nil, "", false:
	default:
		return refuse("config.json names code of its own (model_file), which is never run")
	}
	if config.ModelType != "" && !l.o.Environment.mayKnow(config.ModelType) {
		return refuse("its architecture (model_type " + config.ModelType + ") is none that this version of mlx-lm knows")
	}
	return nil
}

// readRegular returns what a regular file of moderate length holds; nil for all else, which is not waited for.
func readRegular(path string) []byte {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > mostConfigBytes {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, mostConfigBytes))
	if err != nil {
		return nil
	}
	return data
}

// mayKnow is false for an architecture that the packages here have never had: it is neither a file that mlx-lm brought,
// whether it is still there or not, nor a name that its code has for another one.
func (e *Environment) mayKnow(architecture string) bool {
	if e.o.Python != "" {
		return true
	}
	python := e.find()
	lists, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(python)), "lib", "python*", "site-packages", "mlx_lm-*.dist-info", "RECORD"))
	if python == "" || len(lists) != 1 {
		return true
	}
	list, err := os.ReadFile(lists[0])
	code, codeErr := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(lists[0])), "mlx_lm", "utils.py"))
	return err != nil || codeErr != nil || bytes.Contains(code, []byte(`"`+architecture+`"`)) ||
		bytes.Contains(list, []byte("mlx_lm/models/"+architecture+".py,")) ||
		bytes.Contains(list, []byte("mlx_lm/models/"+architecture+"/__init__.py,"))
}

// isWhole is false where a file of the environment is missing or was cut off.
func (e *Environment) isWhole(python string) bool {
	return e.o.Python != "" || checkFiles(filepath.Dir(filepath.Dir(python))) == nil
}
