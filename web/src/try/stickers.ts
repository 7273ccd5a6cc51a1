/** A few stickers, drawn where they are needed: a picture like any other by the time it is sent. */

export const STICKERS = ["😺", "👍", "😂", "🌧️", "🎉", "🤔", "🥱", "❤️"] as const;

export function sticker(glyph: string): string {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 160;
  const draw = canvas.getContext("2d");
  if (!draw) return "";
  draw.fillStyle = "#fffaf0";
  draw.fillRect(0, 0, 160, 160);
  draw.font = "104px sans-serif";
  draw.textAlign = "center";
  draw.textBaseline = "middle";
  draw.fillText(glyph, 80, 88);
  return canvas.toDataURL("image/png");
}
