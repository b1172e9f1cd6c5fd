// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Options choose among the devices of a backend.
type Options struct {
	// Index is the device's number, from 0.
	Index int
	// Library is the path of the backend's shared library where it has one;
	// empty for the default.
	Library string
	// Fallback, if given, is told why "auto" does not use the device it would
	// have preferred, before it opens the other.
	Fallback func(reason error)
}

var registry = struct {
	sync.Mutex
	open map[string]func(Options) (Device, error)
}{open: map[string]func(Options) (Device, error){}}

// Register makes a backend known to Open. Packages call it from init with
// names of their own; a second registration of a name replaces the first.
func Register(name string, open func(Options) (Device, error)) {
	registry.Lock()
	defer registry.Unlock()
	registry.open[name] = open
}

// Names lists the registered backends in alphabetical order.
func Names() []string {
	registry.Lock()
	defer registry.Unlock()
	names := make([]string, 0, len(registry.open))
	for name := range registry.open {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Open opens a device of the named backend: "reference", "cpu" or "cuda" when
// their packages are linked in.
func Open(name string, options Options) (Device, error) {
	registry.Lock()
	open := registry.open[name]
	registry.Unlock()
	if open == nil {
		return nil, fmt.Errorf("no backend %q is linked in; there are: %s", name, strings.Join(Names(), ", "))
	}
	dev, err := open(options)
	if err != nil {
		return nil, fmt.Errorf("opening backend %q: %w", name, err)
	}
	return dev, nil
}
