package config

import "fmt"

// Origin says which level gave a setting.
type Origin struct {
	Level string `json:"level"`           // flag, env, context, file, default
	Where string `json:"where,omitempty"` // the flag, the variable, the context's name, file and line
}

func (o Origin) String() string {
	if o.Where == "" {
		return o.Level
	}
	return o.Level + " " + o.Where
}

// Value is one setting as `config view` shows it: secrets are taken out.
type Value struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Origin Origin `json:"origin"`
}

// Values lists the settings in effect.
func (c *Config) Values() []Value {
	var out []Value
	for _, k := range Keys() {
		out = append(out, Value{Key: k.Name, Value: shown(k, c.shown[k.Name]), Origin: c.origins[k.Name]})
	}
	options := c.options
	if options == nil {
		options = []map[string]any{}
	}
	return append(out, Value{Key: optionsKey, Value: options, Origin: c.origins[optionsKey]})
}

// Value returns one setting in effect; ok is false for an unknown key.
func (c *Config) Value(name string) (value Value, ok bool) {
	for _, v := range c.Values() {
		if v.Key == name {
			return v, true
		}
	}
	return Value{}, false
}

func shown(k Key, value any) any {
	if k.Kind == URL {
		return redactURL(fmt.Sprint(value))
	}
	return value
}
