// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// buildFlags and buildEnv are the one set of options for every binary. A
// different -trimpath, CGO_ENABLED or GOFLAGS for one of them would compile all
// of its several hundred packages a second time.
var (
	buildFlags = []string{"build", "-buildvcs=false"}
	buildEnv   = []string{"CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=linux"}
)

// goArgs returns the arguments of the go command that builds b into output.
func (b Binary) goArgs(output string) []string {
	linker := []string{"-s", "-w"}
	for _, s := range b.Stamp {
		linker = append(linker, "-X", s)
	}
	args := append([]string{}, buildFlags...)
	return append(args, "-ldflags="+strings.Join(linker, " "), "-o", output, b.Package)
}

// key identifies the inputs of a build of b: the wrapper module's files, the
// flags and the toolchain. A cached binary is used only when its stamp equals
// the key.
func (b Binary) key(root fs.FS, toolchain string) (string, error) {
	names, err := moduleFiles(root, b.Module)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, name := range names {
		data, err := fs.ReadFile(root, name)
		if err != nil {
			return "", fmt.Errorf("read an input of %s: %w", b.Name, err)
		}
		fmt.Fprintf(h, "%s %d\n", name, len(data))
		h.Write(data)
	}
	fmt.Fprintf(h, "%q %q %s\n", b.goArgs(b.Name), buildEnv, toolchain)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// moduleFiles lists the files that decide what a wrapper module builds, sorted.
func moduleFiles(root fs.FS, module string) ([]string, error) {
	entries, err := fs.ReadDir(root, module)
	if err != nil {
		return nil, fmt.Errorf("read the wrapper module %s: %w", module, err)
	}
	var names []string
	for _, e := range entries {
		n := e.Name()
		if n == "go.mod" || n == "go.sum" || (strings.HasSuffix(n, ".go") && !strings.HasSuffix(n, "_test.go")) {
			names = append(names, module+"/"+n)
		}
	}
	sort.Strings(names)
	return names, nil
}

// current reports whether the cache holds a build of b with this key.
func current(cache string, b Binary, key string) bool {
	stamp, err := os.ReadFile(stampPath(cache, b))
	if err != nil || strings.TrimSpace(string(stamp)) != key {
		return false
	}
	_, err = os.Stat(filepath.Join(cache, b.Name))
	return err == nil
}

func stampPath(cache string, b Binary) string {
	return filepath.Join(cache, ".stamps", b.Name)
}

// CacheDir returns the project's cache folder: $FINDEP_CACHE, or findep in the
// user's cache folder. Binaries lie in its sub-folder bin.
func CacheDir() (string, error) {
	if dir := os.Getenv("FINDEP_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w; set FINDEP_CACHE", err)
	}
	return filepath.Join(base, "findep"), nil
}

// modulePath is the first line of the main module's go.mod.
const modulePath = "module github.com/findep/findep-operator\n"

// Root returns the repository root: the nearest folder at or above the working
// folder that holds the main module's go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(data), modulePath) {
			return dir, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside a checkout of the project: run this command below its root folder")
		}
		dir = parent
	}
}
