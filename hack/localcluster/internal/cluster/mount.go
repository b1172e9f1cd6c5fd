// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// mount is one line of /proc/self/mountinfo.
type mount struct {
	target string
	fstype string
}

// parseMounts reads the format of proc_pid_mountinfo(5). Lines that do not have
// it are passed over.
func parseMounts(mountinfo string) []mount {
	var mounts []mount
	for line := range strings.Lines(mountinfo) {
		before, after, found := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if found && len(fields) >= 5 && len(kind) > 0 {
			mounts = append(mounts, mount{target: unescape(fields[4]), fstype: kind[0]})
		}
	}
	return mounts
}

// unescape undoes the kernel's \ooo for space, tab, newline and backslash.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// mountsBelow returns the mount points inside the folders, innermost first.
func mountsBelow(mountinfo string, dirs ...string) []string {
	var out []string
	for _, m := range parseMounts(mountinfo) {
		for _, d := range dirs {
			if strings.HasPrefix(m.target, d+"/") {
				out = append(out, m.target)
				break
			}
		}
	}
	slices.Reverse(out)
	return out
}

func unmountBelow(dirs ...string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for _, target := range mountsBelow(string(data), dirs...) {
		err := syscall.Unmount(target, syscall.MNT_DETACH|umountNoFollow)
		// EINVAL: it went away together with one that contained it.
		if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", target, err))
		}
	}
	return errors.Join(errs...)
}

// umountNoFollow is UMOUNT_NOFOLLOW of umount2(2), which syscall lacks.
const umountNoFollow = 8

// overlayMagic is the statfs(2) type of overlayfs.
const overlayMagic = 0x794c7630

// snapshotter returns the way in which containerd can store layers in dir: an
// overlay cannot lie on an overlay, as inside a container.
func snapshotter(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err == nil && s.Type == overlayMagic {
		return "native"
	}
	return "overlayfs"
}
