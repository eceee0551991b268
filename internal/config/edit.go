package config

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

// Set writes one setting into the file at path and keeps everything else there, comments included. The file is
// replaced as a whole, so that a reader sees the old or the new one.
func Set(path, name, value string) error {
	k, ok := Lookup(name)
	if !ok && name == optionsKey {
		return cluster.Errorf(cluster.CodeInvalid, "%s is a list", name).WithHint("write it into %s", path)
	}
	if !ok {
		return UnknownKey(name)
	}
	if err := k.check(value); err != nil {
		return &cluster.Error{Code: cluster.CodeInvalid, Message: name + " " + err.Error()}
	}
	f, err := readFile(path)
	if err != nil {
		return err
	}
	if name == "context" {
		if err := f.checkContext(value); err != nil {
			return err
		}
	}
	node := k.node(value)
	at := f.mapping()
	parts := strings.Split(name, ".")
	for _, p := range parts[:len(parts)-1] {
		at = child(at, p)
	}
	put(at, parts[len(parts)-1], node)
	return f.write()
}

// node is a value as it is written.
func (k Key) node(value string) *yaml.Node {
	switch list := k.split(value).(type) {
	case []string:
		node := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range list {
			node.Content = append(node.Content, text(item))
		}
		return node
	default:
		if k.Kind == Count {
			return &yaml.Node{Kind: yaml.ScalarNode, Value: value}
		}
		return text(value)
	}
}

// CheckContext wants a context of that name in the file at path. The error is a *NoContextError where there is none.
func CheckContext(path, name string) error {
	f, err := readFile(path)
	if err != nil {
		return err
	}
	return f.checkContext(name)
}

func (f *file) checkContext(name string) error {
	known := []string{LocalContext}
	for _, c := range f.entries("contexts") {
		known = append(known, fmt.Sprint(c["name"]))
	}
	if slices.Contains(known, name) {
		return nil
	}
	return noContext(name, Origin{}, known)
}

// UnknownKey is the error for a setting that does not exist.
func UnknownKey(name string) error {
	err := cluster.Errorf(cluster.CodeInvalid, "unknown key %q", name)
	if near := cluster.Nearest(name, keyNames(Keys(), "")); len(near) > 0 {
		return err.WithHint("did you mean %q?", near[0])
	}
	return err.WithHint("`mlxctl config view` lists the settings")
}

// AddContext writes one context into the file at path; one of the same name is refused.
func AddContext(path string, c Context) error {
	f, err := readFile(path)
	if err != nil {
		return err
	}
	if c.Name == "" || c.Name == LocalContext || c.Name == "-" {
		return cluster.Errorf(cluster.CodeInvalid, "a context cannot be called %q", c.Name)
	}
	entry := &yaml.Node{Kind: yaml.MappingNode}
	for _, kv := range [][2]string{
		{"name", c.Name},
		{"home", c.Home},
		{"timeout", c.Timeout},
		{"nats_url", c.NATSURL},
		{"nats_creds", c.NATSCreds},
		{"nats_ca", c.NATSCA},
		{"nats_server_name", c.NATSServerName},
		{"http_url", c.HTTPURL},
		{"api_key_file", c.APIKeyFile},
	} {
		if kv[1] != "" {
			put(entry, kv[0], text(kv[1]))
		}
	}
	list := find(f.mapping(), "contexts")
	if list == nil {
		list = &yaml.Node{Kind: yaml.SequenceNode}
		put(f.mapping(), "contexts", list)
	}
	for _, other := range list.Content {
		if scalar(find(other, "name")) == c.Name {
			return cluster.Errorf(cluster.CodeConflict, "context %q is there already", c.Name).
				WithHint("`mlxctl context rm %s` first, or choose another name", c.Name)
		}
	}
	list.Content = append(list.Content, entry)
	if err := f.check(); err != nil {
		return err
	}
	return f.write()
}

// RemoveContext takes one context out of the file at path.
func RemoveContext(path, name string) error {
	f, err := readFile(path)
	if err != nil {
		return err
	}
	list := f.lookup("contexts")
	at := -1
	if list != nil {
		at = slices.IndexFunc(list.Content, func(n *yaml.Node) bool { return scalar(find(n, "name")) == name })
	}
	if at < 0 {
		return noContext(name, Origin{}, nil)
	}
	list.Content = slices.Delete(list.Content, at, at+1)
	if scalar(f.lookup("context")) == name {
		put(f.mapping(), "context", text(LocalContext))
	}
	return f.write()
}

// mapping is the root of the file, made where it is missing.
func (f *file) mapping() *yaml.Node {
	root := f.root()
	if root == nil {
		root = &yaml.Node{Kind: yaml.MappingNode, HeadComment: f.preface}
		f.doc = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{root}}
	}
	if root.Kind != yaml.MappingNode {
		*root = yaml.Node{Kind: yaml.MappingNode, HeadComment: root.HeadComment, FootComment: root.FootComment}
	}
	return root
}

func (f *file) write() error {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&f.doc); err != nil {
		return fmt.Errorf("encode %s: %w", f.path, err)
	}
	return WriteFile(f.path, b.Bytes())
}

// WriteFile replaces the file at path as a whole and makes its folder if need be. A new file is readable by its owner alone;
// one that was there keeps its permissions.
func WriteFile(path string, data []byte) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a file that is linked into place stays a link
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	return durable.Write(path, data, mode)
}

func child(mapping *yaml.Node, key string) *yaml.Node {
	if n := find(mapping, key); n != nil && n.Kind == yaml.MappingNode {
		return n
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	put(mapping, key, n)
	return n
}

// put replaces or appends one key and keeps the comments of a value that was there.
func put(mapping *yaml.Node, key string, value *yaml.Node) {
	if old := find(mapping, key); old != nil {
		value.HeadComment, value.LineComment, value.FootComment = old.HeadComment, old.LineComment, old.FootComment
		*old = *value
		return
	}
	mapping.Content = append(mapping.Content, text(key), value)
}

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}
