package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// file is a configuration file as it is written, comments and all.
type file struct {
	path string
	doc  yaml.Node // zero for an empty file
	// preface is what an otherwise empty file says in comments.
	preface string
}

// readFile reads and checks a file; one that is not there is an empty one.
func readFile(path string) (*file, error) {
	f := &file{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, f.wrong(0, "cannot be read: %v", cause(err))
	}
	if err := yaml.Unmarshal(data, &f.doc); err != nil {
		return nil, f.wrong(0, "%s", strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n", " "), "yaml: "))
	}
	if len(f.doc.Content) == 0 {
		f.preface = strings.TrimSpace(string(data))
	}
	return f, f.check()
}

// root is the mapping of the whole file; nil for an empty one.
func (f *file) root() *yaml.Node {
	if len(f.doc.Content) == 0 {
		return nil
	}
	return f.doc.Content[0]
}

func (f *file) wrong(line int, format string, args ...any) *cluster.Error {
	where := f.path
	if line > 0 {
		where = fmt.Sprintf("%s:%d", f.path, line)
	}
	return &cluster.Error{Code: cluster.CodeInvalid, Message: where + ": " + fmt.Sprintf(format, args...)}
}

func (f *file) check() error {
	root := f.root()
	if root == nil || root.Tag == "!!null" {
		return nil
	}
	return f.checkMapping(root, "")
}

// checkMapping refuses unknown keys and wrong values below prefix.
func (f *file) checkMapping(node *yaml.Node, prefix string) error {
	if node.Kind != yaml.MappingNode {
		return f.wrong(node.Line, "%s must hold keys and values", first(strings.TrimSuffix(prefix, "."), "the file"))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		if seen[name.Value] {
			return f.wrong(name.Line, "key %q is there twice", prefix+name.Value)
		}
		seen[name.Value] = true
		if err := f.checkEntry(name, value, prefix); err != nil {
			return err
		}
	}
	return nil
}

func (f *file) checkEntry(name, value *yaml.Node, prefix string) error {
	full := prefix + name.Value
	switch full {
	case "contexts":
		return f.checkList(value, full, contextKeys(), LocalContext)
	case optionsKey:
		return f.checkList(value, full, optionKeys())
	case HostsKey:
		return f.checkHosts(value)
	}
	if k, ok := Lookup(full); ok {
		return f.checkValue(k, full, value)
	}
	var known []string
	for _, k := range Keys() {
		known = append(known, k.Name)
		if strings.HasPrefix(k.Name, full+".") {
			return f.checkMapping(value, full+".")
		}
	}
	return f.unknown(name, full, append(known, "contexts", optionsKey))
}

func (f *file) unknown(name *yaml.Node, full string, known []string) error {
	err := f.wrong(name.Line, "unknown key %q", full)
	if near := cluster.Nearest(full, known); len(near) > 0 {
		return err.WithHint("did you mean %q?", near[0])
	}
	return err.WithHint("`mlxctl help environment` lists the settings")
}

func (f *file) checkValue(k Key, full string, value *yaml.Node) error {
	if k.Kind == Strings {
		if value.Kind != yaml.SequenceNode {
			return f.wrong(value.Line, "%s must be a list", full)
		}
		return nil
	}
	if value.Kind != yaml.ScalarNode {
		return f.wrong(value.Line, "%s must be a single value", full)
	}
	if err := k.check(value.Value); err != nil {
		return f.wrong(value.Line, "%s %v", full, err)
	}
	return nil
}

// checkList checks a list of entries, each with a name of its own and keys that are known.
func (f *file) checkList(list *yaml.Node, full string, known []Key, taken ...string) error {
	if list.Kind != yaml.SequenceNode {
		return f.wrong(list.Line, "%s must be a list of entries with a name each", full)
	}
	for i, entry := range list.Content {
		where := fmt.Sprintf("%s[%d]", full, i)
		if entry.Kind != yaml.MappingNode {
			return f.wrong(entry.Line, "%s must hold keys and values", where)
		}
		if err := f.checkFields(entry, where, known); err != nil {
			return err
		}
		name := scalar(find(entry, "name"))
		if name == "" || slices.Contains(taken, name) {
			return f.wrong(entry.Line, "%s must have a name of its own, not %q", where, name)
		}
		taken = append(taken, name)
	}
	return nil
}

// checkFields checks one entry of a list, which is a mapping.
func (f *file) checkFields(entry *yaml.Node, where string, known []Key) error {
	for j := 0; j+1 < len(entry.Content); j += 2 {
		name, value := entry.Content[j], entry.Content[j+1]
		at := slices.IndexFunc(known, func(k Key) bool { return k.Name == name.Value })
		if at < 0 {
			return f.unknown(name, where+"."+name.Value, keyNames(known, where+"."))
		}
		if err := f.checkValue(known[at], where+"."+name.Value, value); err != nil {
			return err
		}
	}
	return nil
}

// lookup finds the value of a setting in the file.
func (f *file) lookup(name string) *yaml.Node {
	at := f.root()
	for part := range strings.SplitSeq(name, ".") {
		if at = find(at, part); at == nil {
			return nil
		}
	}
	return at
}

// entries are those of one of the file's lists, every value as text.
func (f *file) entries(name string) []map[string]any {
	list := f.lookup(name)
	if list == nil {
		return nil
	}
	var out []map[string]any
	for _, entry := range list.Content {
		m := map[string]any{}
		for i := 0; i+1 < len(entry.Content); i += 2 {
			m[entry.Content[i].Value] = entry.Content[i+1].Value
		}
		out = append(out, m)
	}
	return out
}

func find(mapping *yaml.Node, key string) *yaml.Node {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

func scalar(node *yaml.Node) string {
	if node == nil {
		return ""
	}
	return node.Value
}

func scalarOrList(node *yaml.Node) any {
	if node.Kind != yaml.SequenceNode {
		return node.Value
	}
	list := []string{}
	for _, item := range node.Content {
		list = append(list, item.Value)
	}
	return list
}

func keyNames(keys []Key, prefix string) []string {
	var out []string
	for _, k := range keys {
		out = append(out, prefix+k.Name)
	}
	return out
}

// cause is the part of a file error that its path does not repeat.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
