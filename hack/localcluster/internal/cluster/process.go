// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// record identifies a process that this program started. A process id alone may
// have been given to another process since; the start time tells them apart,
// and the boot id tells start times of different boots apart.
type record struct {
	Name  string   `json:"name"`
	PID   int      `json:"pid"`
	Start uint64   `json:"startTicks"`
	Boot  string   `json:"bootID"`
	Log   string   `json:"log"`
	Args  []string `json:"args"`
}

// startTicks returns when a process started, in clock ticks after the boot
// (field 22 of /proc/PID/stat, proc(5)). A zombie counts as gone.
func startTicks(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStartTicks(string(data))
}

func parseStartTicks(stat string) (uint64, error) {
	// The second field is the program's name in parentheses, which may itself
	// contain spaces and parentheses.
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, fmt.Errorf("%q is not the contents of a /proc/PID/stat file", stat)
	}
	fields := strings.Fields(stat[end+1:])
	const state, start = 0, 22 - 3
	if len(fields) <= start {
		return 0, fmt.Errorf("%q is not the contents of a /proc/PID/stat file", stat)
	}
	if fields[state] == "Z" || fields[state] == "X" {
		return 0, fs.ErrNotExist
	}
	return strconv.ParseUint(fields[start], 10, 64)
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// alive reports whether the recorded process still runs.
func (r record) alive() bool {
	if r.PID <= 0 || r.Boot != bootID() {
		return false
	}
	ticks, err := startTicks(r.PID)
	return err == nil && ticks == r.Start
}

// kill sends SIGKILL to the recorded process if it still runs. The process is
// opened before it is checked, so that the signal cannot reach a successor with
// the same id.
func (r record) kill() {
	process, err := os.FindProcess(r.PID)
	if err != nil {
		return
	}
	defer func() { _ = process.Release() }()
	if r.alive() {
		_ = process.Kill()
	}
}

// launch starts a component detached from this program: in a session of its own,
// with no terminal, and its output in a log file that is appended to.
func launch(p Paths, c component, env []string) (record, error) {
	r := record{Name: c.name, Boot: bootID(), Log: filepath.Join(p.logs(), c.name+".log"), Args: c.args}
	if err := os.MkdirAll(p.logs(), 0o755); err != nil {
		return r, err
	}
	log, err := os.OpenFile(r.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return r, err
	}
	defer log.Close()
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env, cmd.Dir = env, "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return r, fmt.Errorf("start %s: %w", c.name, err)
	}
	r.PID = cmd.Process.Pid
	if r.Start, err = startTicks(r.PID); err != nil {
		return r, fmt.Errorf("%s ended at once; its log is %s", c.name, r.Log)
	}
	// Collects the exit status if the process ends while this program still
	// runs; otherwise init does.
	go func() { _ = cmd.Wait() }()
	return r, saveRecord(p, r)
}

func saveRecord(p Paths, r record) error {
	return writeJSON(filepath.Join(p.records(), r.Name+".json"), r)
}

// writeJSON writes by a rename, so that a reader never sees half a file.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".part", append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}

// loadRecords returns the recorded processes by component name.
func loadRecords(p Paths) (map[string]record, error) {
	files, err := filepath.Glob(filepath.Join(p.records(), "*.json"))
	if err != nil {
		return nil, err
	}
	records := map[string]record{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var r record
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, fmt.Errorf("process record %s: %w; remove the file if no such process runs", f, err)
		}
		records[r.Name] = r
	}
	return records, nil
}

// lastLines returns the end of a log for an error message.
func lastLines(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// pollEvery is the time between two looks at something awaited.
const pollEvery = 100 * time.Millisecond
