// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Builder builds binaries of the catalogue into a cache folder. Several
// processes may use one cache folder at a time.
type Builder struct {
	// Root is the repository root.
	Root string
	// Bin is the folder that receives the binaries.
	Bin string
	// Progress receives one line per step. Nothing is written for binaries
	// that are already in the cache.
	Progress io.Writer
	// Tick is the time between two "still building" lines.
	Tick time.Duration
}

// NewBuilder returns a builder for the checkout around the working folder and
// the default cache folder (see [CacheDir]).
func NewBuilder(progress io.Writer) (*Builder, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	return &Builder{Root: root, Bin: filepath.Join(cache, "bin"), Progress: progress, Tick: 15 * time.Second}, nil
}

// Path returns the path of a binary in the cache, whether or not it is built.
func (b *Builder) Path(name string) string { return filepath.Join(b.Bin, name) }

// Ensure builds those of the named binaries that the cache lacks or holds in an
// outdated form. It returns when all are there.
func (b *Builder) Ensure(ctx context.Context, names ...string) error {
	if err := os.MkdirAll(filepath.Join(b.Bin, ".stamps"), 0o755); err != nil {
		return fmt.Errorf("make the cache folder: %w", err)
	}
	var stale []Binary
	for _, name := range names {
		bin, err := Lookup(name)
		if err != nil {
			return err
		}
		key, err := bin.key(os.DirFS(b.Root), runtime.Version())
		if err != nil {
			return err
		}
		if !current(b.Bin, bin, key) {
			stale = append(stale, bin)
		}
	}
	for i, bin := range stale {
		if err := b.ensureOne(ctx, bin, fmt.Sprintf("[%d/%d]", i+1, len(stale))); err != nil {
			return err
		}
	}
	return nil
}

// ensureOne builds one binary under the cache's lock. The stamp is read again
// under the lock because another process may have built it meanwhile.
func (b *Builder) ensureOne(ctx context.Context, bin Binary, position string) error {
	unlock, err := b.lock(ctx, bin, position)
	if err != nil {
		return err
	}
	defer unlock()
	key, err := bin.key(os.DirFS(b.Root), runtime.Version())
	if err != nil {
		return err
	}
	if current(b.Bin, bin, key) {
		return nil
	}
	start := time.Now()
	b.printf("%s %s %s: building\n", position, bin.Name, bin.Version)
	if err := b.compile(ctx, bin, position); err != nil {
		return err
	}
	if err := os.WriteFile(stampPath(b.Bin, bin), []byte(key+"\n"), 0o644); err != nil {
		return fmt.Errorf("record the build of %s: %w", bin.Name, err)
	}
	b.printf("%s %s %s: built in %d s\n", position, bin.Name, bin.Version, int(time.Since(start).Seconds()))
	return nil
}

// compile builds into a temporary name and renames, so that a running program
// is never overwritten and an interrupted build leaves nothing behind.
func (b *Builder) compile(ctx context.Context, bin Binary, position string) error {
	temporary := filepath.Join(b.Bin, fmt.Sprintf(".%s.%d", bin.Name, os.Getpid()))
	defer os.Remove(temporary)
	cmd := exec.CommandContext(ctx, "go", bin.goArgs(temporary)...)
	cmd.Dir = filepath.Join(b.Root, bin.Module)
	cmd.Env = append(os.Environ(), buildEnv...)
	var output tail
	cmd.Stdout, cmd.Stderr = &output, &output
	stop := b.tick(position, bin)
	err := cmd.Run()
	stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("build %s in %s: %w\n%s", bin.Package, bin.Module, err, output.data)
	}
	return os.Rename(temporary, b.Path(bin.Name))
}

// tick reports the elapsed time of a running build until the returned function
// is called.
func (b *Builder) tick(position string, bin Binary) (stop func()) {
	done, finished := make(chan struct{}), make(chan struct{})
	start := time.Now()
	go func() {
		defer close(finished)
		ticker := time.NewTicker(b.Tick)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				b.printf("%s %s %s: still building, %d s\n", position, bin.Name, bin.Version, int(time.Since(start).Seconds()))
			}
		}
	}()
	return func() { close(done); <-finished }
}

// lock takes the cache's lock, which serialises builds: two at once would
// compile the same packages twice.
func (b *Builder) lock(ctx context.Context, bin Binary, position string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(b.Bin, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the cache's lock: %w", err)
	}
	for waited := false; ; waited = true {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock the cache: %w", err)
		}
		if !waited {
			b.printf("%s %s %s: waiting for another build to finish\n", position, bin.Name, bin.Version)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (b *Builder) printf(format string, args ...any) {
	if b.Progress != nil {
		fmt.Fprintf(b.Progress, format, args...)
	}
}

// tail keeps the last 16 KiB written to it: the compiler's complaint, without
// the hundreds of download lines before it.
type tail struct{ data []byte }

const tailBytes = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if extra := len(t.data) - tailBytes; extra > 0 {
		t.data = t.data[extra:]
	}
	return len(p), nil
}
