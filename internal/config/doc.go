// Package config finds mlxctl's folders and reads its settings. A setting comes from, in this order, a flag, an
// environment variable (MLXCTL_…), the context in use, the file, or its default; an unknown key in the file is an
// error that names the nearest known one. Settings are read once into a struct: nothing here is watched or global.
package config
