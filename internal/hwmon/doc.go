// Package hwmon reads what this machine is made of and how it is doing: chip, GPU cores, memory, load and temperature,
// without root and without cgo. What a machine does not offer stays absent; nothing is ever guessed.
package hwmon
