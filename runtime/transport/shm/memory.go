// SPDX-License-Identifier: Apache-2.0

package shm

import (
	"errors"
	"fmt"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"
)

// Bounds on a ring's size in bytes, which is a power of two.
const (
	MinRingBytes     = 64 << 10
	MaxRingBytes     = 64 << 20
	DefaultRingBytes = 4 << 20
)

// seals keep the memory's size as it is for ever. Without them the other
// process could cut the file short, and reading what is gone kills a process.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

func checkRingBytes(n int) error {
	if n < MinRingBytes || n > MaxRingBytes || bits.OnesCount(uint(n)) != 1 {
		return fmt.Errorf("shm: ring has %d bytes; use a power of two from %d to %d", n, MinRingBytes, MaxRingBytes)
	}
	return nil
}

// newMemory makes sealed anonymous memory for a ring. All of it is reserved
// now, so that writing to it later cannot fail for lack of memory.
func newMemory(ringBytes int) (*os.File, error) {
	if err := checkRingBytes(ringBytes); err != nil {
		return nil, err
	}
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("findep-ring", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // Kernels before 6.3.
		fd, err = unix.MemfdCreate("findep-ring", flags)
	}
	if err != nil {
		return nil, fmt.Errorf("shm: memfd_create: %w", err)
	}
	file := os.NewFile(uintptr(fd), "findep-ring")
	size := int64(headerBytes + ringBytes)
	err = unix.Ftruncate(fd, size)
	if err == nil {
		err = unix.Fallocate(fd, 0, 0, size)
	}
	if err == nil {
		_, err = unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("shm: prepare %d bytes of shared memory: %w", size, err), file.Close())
	}
	return file, nil
}

// mapMemory maps memory that another process may have made, after checking that
// its size is one of a ring and cannot change.
func mapMemory(file *os.File) ([]byte, error) {
	has, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("shm: the file offered is no shared memory: %w", err)
	}
	if need := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW; has&need != need {
		return nil, fmt.Errorf("shm: the memory offered has seals %#x, need %#x: its size could change", has, need)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("shm: %w", err)
	}
	if size := info.Size(); size > headerBytes+MaxRingBytes || checkRingBytes(int(size)-headerBytes) != nil {
		return nil, fmt.Errorf("shm: the memory offered has %d bytes; want %d and a power of two from %d to %d",
			size, headerBytes, MinRingBytes, MaxRingBytes)
	}
	memory, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("shm: map %d bytes: %w", info.Size(), err)
	}
	return memory, nil
}
