// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// palette is Okabe and Ito's, which people with colour-blindness can tell
// apart; its yellow is too pale for a line on white.
var palette = []color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {86, 180, 233, 255}, {0, 0, 0, 255},
}

// The size of every picture, in points.
const (
	width  = 680 * vg.Length(1)
	height = 380 * vg.Length(1)
)

var shapes = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.PyramidGlyph{}, draw.RingGlyph{}, draw.CrossGlyph{}}

// newPlot is a white sheet with a grid; a fill of its own keeps it legible on a
// dark page.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = vg.Points(8)
	for _, s := range []*font.Font{&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font} {
		s.Variant, s.Size = "Sans", vg.Points(12)
	}
	p.Title.TextStyle.Font.Size = vg.Points(14)
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{210}, color.Gray{210}
	p.Add(grid)
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Points(3)
	p.Legend.XOffs = vg.Points(8)
	return p
}

// series is one line of a plot.
type series struct {
	name   string
	x, y   []float64
	colour int
	// points draws marks without a line, dashed breaks the line, bare leaves
	// the marks out.
	points, dashed, bare bool
}

func (s *series) xys() plotter.XYs {
	xys := make(plotter.XYs, len(s.x))
	for i := range s.x {
		xys[i] = plotter.XY{X: s.x[i], Y: s.y[i]}
	}
	return xys
}

func addSeries(p *plot.Plot, all ...series) error {
	for _, s := range all {
		line, marks, err := plotter.NewLinePoints(s.xys())
		if err != nil {
			return fmt.Errorf("series %q: %w", s.name, err)
		}
		line.Color, line.Width = palette[s.colour], vg.Points(2)
		if s.dashed {
			line.Dashes = []vg.Length{vg.Points(6), vg.Points(4)}
		}
		marks.Color, marks.Shape, marks.Radius = palette[s.colour], shapes[s.colour], vg.Points(3.5)
		var shown []plot.Plotter
		var keys []plot.Thumbnailer
		if !s.points {
			shown, keys = append(shown, line), append(keys, line)
		}
		if !s.bare {
			shown, keys = append(shown, marks), append(keys, marks)
		}
		p.Add(shown...)
		if s.name != "" {
			p.Legend.Add(s.name, keys...)
		}
	}
	return nil
}

// level draws a thin horizontal line.
func level(p *plot.Plot, y, from, to float64) error {
	line, err := plotter.NewLine(plotter.XYs{{X: from, Y: y}, {X: to, Y: y}})
	if err != nil {
		return err
	}
	line.Color = color.Gray{120}
	p.Add(line)
	return nil
}

// logTicks puts a labelled mark at each value, on a logarithmic axis.
func logTicks(a *plot.Axis, values []float64) {
	ticks := make(plot.ConstantTicks, len(values))
	for i, v := range values {
		ticks[i] = plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'g', 4, 64)}
	}
	a.Scale, a.Tick.Marker = plot.LogScale{}, ticks
}

// evenTicks puts a labelled mark at every step between two values.
func evenTicks(a *plot.Axis, from, to, step float64, digits int) {
	var ticks plot.ConstantTicks
	for i := range int((to-from)/step+0.5) + 1 {
		v := from + float64(i)*step
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', digits, 64)})
	}
	a.Min, a.Max, a.Tick.Marker = from, to, ticks
}

// nameTicks puts names at 0, 1, 2, ..., slanted, with a space between name and
// axis.
func nameTicks(a *plot.Axis, names []string) {
	ticks := make(plot.ConstantTicks, len(names))
	for i, n := range names {
		ticks[i] = plot.Tick{Value: float64(i), Label: n + "  "}
	}
	a.Tick.Marker = ticks
	a.Tick.Label.Rotation = math.Pi / 3
	a.Tick.Label.XAlign, a.Tick.Label.YAlign = draw.XRight, draw.YCenter
	a.Tick.Label.Font.Size = vg.Points(10)
}

// save writes a plot as SVG. The library names the Liberation fonts only, which
// few browsers have; others of the same widths are named beside it.
func save(p *plot.Plot, directory, name string) error {
	canvas := vgsvg.New(width, height)
	sheet := draw.New(canvas)
	sheet.SetColor(p.BackgroundColor)
	sheet.Fill(sheet.Path())
	// The margins are for fonts that are wider than the library expects.
	p.Draw(draw.Crop(sheet, vg.Points(14), -vg.Points(24), vg.Points(8), -vg.Points(10)))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return err
	}
	svg := bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif"))
	return os.WriteFile(filepath.Join(directory, name), svg, 0o644)
}
