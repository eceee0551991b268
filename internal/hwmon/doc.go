// Package hwmon reads what this machine is made of and how it is doing: chip, GPU cores, memory, load, power and
// temperature, without root and without cgo, and knows what Apple's chips make one expect of a model. What a machine
// does not offer stays absent; nothing is ever guessed.
//
// Power is of the whole machine and comes from its battery's controller, so Macs without a battery have none. The counters
// of the chip's own parts (IOReport) and the System Management Controller would know it everywhere, but only a private
// library reads them, and one that crashes takes the agent with it.
//
// Linux has no memory pressure here. Its own (/proc/pressure/memory) is a share of time that tasks waited for memory,
// which reading a large file raises as well; macOS's levels are the kernel's judgement of what is left, and rows are
// refused by them.
package hwmon
