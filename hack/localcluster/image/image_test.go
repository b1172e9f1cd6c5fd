// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestParseFile(t *testing.T) {
	tests := []struct {
		in    string
		want  File
		fails bool
	}{
		{"bin/manager", File{"bin/manager", "/manager"}, false},
		{"bin/manager=/opt/m", File{"bin/manager", "/opt/m"}, false},
		{"model=/", File{"model", "/"}, false},
		{"model=relative", File{"model", "relative"}, true},
		{"=/x", File{"", "/x"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseFile(tt.in)
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("ParseFile(%q) = %+v, %v, want %+v, error %t", tt.in, got, err, tt.want, tt.fails)
			}
		})
	}
}

// tree makes files with the given contents below a new folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWrite(t *testing.T) {
	dir := tree(t, map[string]string{"app": "program", "model/config.json": "{}", "model/deep/weights": "0123"})
	if err := os.Chmod(filepath.Join(dir, "app"), 0o700); err != nil {
		t.Fatal(err)
	}
	spec := Spec{
		Name:       "localhost/findep/app:dev",
		Files:      []File{{filepath.Join(dir, "app"), "/app"}, {filepath.Join(dir, "model"), "/srv/model"}},
		Entrypoint: []string{"/app", "serve"}, User: "65532", Env: []string{"A=b"},
	}
	archive := filepath.Join(t.TempDir(), "app.tar")
	if err := Write(spec, archive); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(archive, &tag)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spec.Entrypoint, config.Config.Entrypoint); diff != "" {
		t.Errorf("entrypoint (-want +got):\n%s", diff)
	}
	if config.Config.User != "65532" || config.OS != "linux" || !strings.Contains(strings.Join(config.Config.Env, " "), "A=b") {
		t.Errorf("config = %+v, OS %s", config.Config, config.OS)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v, want 1", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	want := map[string]string{
		"app": "-r-xr--r-- program", "srv/": "drwxr-xr-x ", "srv/model/": "drwxr-xr-x ", "tmp/": "dtrwxrwxrwx ",
		"srv/model/config.json": "-r--r--r-- {}", "srv/model/deep/": "drwxr-xr-x ", "srv/model/deep/weights": "-r--r--r-- 0123",
	}
	if diff := cmp.Diff(want, listing(t, content)); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

// listing maps the names of a tar to mode and contents.
func listing(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	for tr := tar.NewReader(r); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[header.Name] = header.FileInfo().Mode().String() + " " + string(data)
	}
}

func TestAFolderMayBeTheRoot(t *testing.T) {
	dir := tree(t, map[string]string{"config.json": "{}"})
	layer := filepath.Join(t.TempDir(), "layer.tar")
	f, err := os.Create(layer)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := writeLayer(f, Spec{Files: []File{{dir, "/"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"config.json": "-r--r--r-- {}"}, listing(t, f)); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

func TestWriteIsReproducible(t *testing.T) {
	write := func() string {
		dir := tree(t, map[string]string{"a/1": "one", "a/2": "two"})
		archive := filepath.Join(t.TempDir(), "x.tar")
		if err := Write(Spec{Name: "localhost/x:1", Files: []File{{dir, "/data"}}}, archive); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if first, second := write(), write(); first != second {
		t.Error("the same files at another place and time give another archive")
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := tree(t, map[string]string{"f": "x"})
	file := filepath.Join(dir, "f")
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		spec Spec
		want string
	}{
		{"no tag", Spec{Name: "localhost/x", Files: []File{{file, "/f"}}}, "with a tag"},
		{"capitals", Spec{Name: "localhost/X:1", Files: []File{{file, "/f"}}}, "localhost/X:1"},
		{"nothing", Spec{Name: "localhost/x:1"}, "no files"},
		{"missing source", Spec{Name: "localhost/x:1", Files: []File{{file + "2", "/f"}}}, file + "2"},
		{"dangling link", Spec{Name: "localhost/x:1", Files: []File{{dir, "/d"}}}, "dangling"},
		{"file as the root", Spec{Name: "localhost/x:1", Files: []File{{file, "/"}}}, "cannot be /"},
		{"file as a folder", Spec{Name: "localhost/x:1", Files: []File{{file, "/f"}, {file, "/f/g"}}}, "also the folder"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			archive := filepath.Join(t.TempDir(), "x.tar")
			err := Write(tt.spec, archive)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want one with %q", err, tt.want)
			}
			if entries, _ := os.ReadDir(filepath.Dir(archive)); len(entries) > 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

// compile builds C source with the host's compiler, or skips the test.
func compile(t *testing.T, output, source string, flags ...string) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("needs gcc")
	}
	file := filepath.Join(t.TempDir(), "x.c")
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("gcc", append([]string{"-o", output, file}, flags...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
}

func TestResolvedLibrariesSufficeToRun(t *testing.T) {
	dir, innerDir := t.TempDir(), t.TempDir()
	lib := filepath.Join(innerDir, "libinner.so.1")
	compile(t, lib, "int inner(void){return 0;}", "-shared", "-fPIC", "-Wl,-soname,libinner.so.1")
	outer := filepath.Join(dir, "libouter.so")
	compile(t, outer, "int inner(void); int outer(void){return inner();}", "-shared", "-fPIC", "-Wl,-soname,libouter.so", lib)
	program := filepath.Join(dir, "program")
	compile(t, program, "#include <math.h>\n#include <stdio.h>\nint outer(void);\nint main(int c,char**v){printf(\"%.0f\\n\",sqrt(c+48.0));return outer();}",
		outer, "-Wl,-rpath,$ORIGIN", "-Wl,-rpath-link,"+innerDir, "-lm")
	resolver := SystemResolver()
	resolver.Dirs = append(resolver.Dirs, innerDir) // The outer library is found by the program's RUNPATH.
	libraries, err := resolver.Resolve(program)
	if err != nil {
		t.Fatal(err)
	}
	// The real loader is the judge: in an otherwise empty root, it must find all.
	root := t.TempDir()
	for _, l := range append(libraries, Library{program, "/program"}) {
		data, err := os.ReadFile(l.Source)
		if err != nil {
			t.Fatal(err)
		}
		destination := filepath.Join(root, l.Destination)
		if err := os.MkdirAll(filepath.Dir(destination), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(destination, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for chroot")
	}
	out, err := exec.Command("chroot", root, "/program").CombinedOutput()
	if err != nil || string(out) != "7\n" {
		t.Errorf("in a root of only its libraries, the program prints %q, %v, want 7", out, err)
	}
}

func TestResolveNamesWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	lib := filepath.Join(dir, "libgone.so.3")
	compile(t, lib, "int gone(void){return 0;}", "-shared", "-fPIC", "-Wl,-soname,libgone.so.3")
	program := filepath.Join(dir, "program")
	compile(t, program, "int gone(void); int main(void){return gone();}", lib)
	if err := os.Remove(lib); err != nil {
		t.Fatal(err)
	}
	_, err := SystemResolver().Resolve(program)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "libgone.so.3") || !strings.Contains(err.Error(), program) {
		t.Errorf("error = %v, want one that names libgone.so.3 and %s", err, program)
	}
}

func TestResolveOfStaticProgramsFindsNothing(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	compile(t, program, "int main(void){return 0;}", "-static")
	libraries, err := SystemResolver().Resolve(program)
	if err != nil || len(libraries) > 0 {
		t.Errorf("Resolve = %v, %v, want nothing", libraries, err)
	}
}

func TestConfiguredDirsFollowsIncludesButNotForEver(t *testing.T) {
	dir := tree(t, map[string]string{
		"ld.so.conf":       "# comment\ninclude conf.d/*.conf\n/last # remark\n",
		"conf.d/1.conf":    "/first\n\n",
		"conf.d/2.conf":    "/second\ninclude 2.conf\n",
		"conf.d/3.ignored": "/never\n",
	})
	got := configuredDirs(filepath.Join(dir, "ld.so.conf"), 0)
	if len(got) < 3 || got[0] != "/first" || got[1] != "/second" || got[len(got)-1] != "/last" {
		t.Errorf("configuredDirs = %v, want /first, /second, ..., /last", got)
	}
	if strings.Contains(strings.Join(got, " "), "/never") || len(got) > 2+maxIncludeDepth {
		t.Errorf("configuredDirs = %v", got)
	}
}
