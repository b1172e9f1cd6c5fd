// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxFileBytes bounds each certificate file read.
const maxFileBytes = 1 << 20

// Material is one consistent reading of certificate, key and authorities.
type Material struct {
	Certificate *tls.Certificate
	Authorities *x509.CertPool
}

// Source gives the current material; it is called at every handshake.
type Source interface {
	Material() (*Material, error)
}

// Bytes is a source that never changes.
func Bytes(b *Bundle) (Source, error) {
	m, err := parse(b)
	if err != nil {
		return nil, err
	}
	return fixed{m}, nil
}

type fixed struct{ m *Material }

func (f fixed) Material() (*Material, error) { return f.m, nil }

// Directory reads ca.crt, tls.crt and tls.key from a directory, as a Secret
// volume has them, and reads them anew when they change. While a rotation is
// half written or wrong, the last good material stays in use.
type Directory struct {
	path string
	// failed, if set, is told about each change that could not be used.
	failed func(error)

	mu      sync.Mutex
	stamp   stamp
	current *Material
}

// NewDirectory reads the directory once and fails if it is unusable. Failed
// may be nil.
func NewDirectory(path string, failed func(error)) (*Directory, error) {
	d := &Directory{path: path, failed: failed}
	if _, err := d.Material(); err != nil {
		return nil, err
	}
	return d, nil
}

// Material returns the newest usable material. The files are only read again
// when size, time or place of one changed.
func (d *Directory) Material() (*Material, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.reload()
	switch {
	case err == nil:
		d.current = m
	case d.current == nil:
		return nil, err
	case d.failed != nil:
		d.failed(err)
	}
	return d.current, nil
}

func (d *Directory) reload() (*Material, error) {
	// The kubelet swaps the link ..data to publish all files of a Secret at
	// once. Reading below its target keeps certificate and key from being of
	// different generations.
	root := d.path
	if target, err := filepath.EvalSymlinks(filepath.Join(d.path, "..data")); err == nil {
		root = target
	}
	now, err := stampOf(root)
	if err != nil {
		return nil, err
	}
	if d.current != nil && now == d.stamp {
		return d.current, nil
	}
	var b Bundle
	for i, into := range []*[]byte{&b.CA, &b.Cert, &b.Key} {
		if *into, err = os.ReadFile(filepath.Join(root, files[i])); err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
	}
	m, err := parse(&b)
	if err != nil {
		return nil, fmt.Errorf("%w (in %s)", err, d.path)
	}
	d.stamp = now
	return m, nil
}

var files = [3]string{CAFile, CertFile, KeyFile}

// stamp identifies one state of the three files without reading them.
type stamp struct {
	root  string
	sizes [3]int64
	times [3]time.Time
}

func stampOf(root string) (stamp, error) {
	s := stamp{root: root}
	for i, name := range files {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			return stamp{}, fmt.Errorf("identity: %w", err)
		}
		if info.Size() > maxFileBytes {
			return stamp{}, fmt.Errorf("identity: %s has %d bytes; at most %d are read",
				filepath.Join(root, name), info.Size(), maxFileBytes)
		}
		s.sizes[i], s.times[i] = info.Size(), info.ModTime()
	}
	return s, nil
}

// parse checks a bundle: key and certificate belong together, and there is at
// least one authority.
func parse(b *Bundle) (*Material, error) {
	pair, err := tls.X509KeyPair(b.Cert, b.Key)
	if err != nil {
		return nil, fmt.Errorf("identity: %s and %s: %w", CertFile, KeyFile, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b.CA) {
		return nil, fmt.Errorf("identity: %s holds no certificate", CAFile)
	}
	return &Material{Certificate: &pair, Authorities: pool}, nil
}
