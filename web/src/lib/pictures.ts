/** Pictures on their way to the server: from paste, drop or file to a data URL of a size the model can use. */

export interface Draft {
  id: number;
  name: string;
  /** `data:image/…;base64,…`, or `sha256:…` of one that the server has. */
  source: string;
  /** What an <img> can show. */
  preview: string;
}

const KINDS = /^image\/(png|jpeg|webp|gif|bmp|heic|heif|avif)$/;
/** The longest side that is sent; the model's own pictures are smaller. */
const LONGEST = 2048;
let count = 0;

export function isPicture(file: File): boolean {
  return KINDS.test(file.type);
}

/** The pictures of a paste or a drop. */
export function picturesOf(data: DataTransfer | null): File[] {
  return [...(data?.files ?? [])].filter(isPicture);
}

/** Throws Error: the file cannot be read. */
export async function draft(file: File): Promise<Draft> {
  const source = await shrunk(file).catch(() => asIs(file));
  return { id: ++count, name: file.name, source, preview: source };
}

export function again(source: string, preview: string): Draft {
  return { id: ++count, name: "", source, preview };
}

async function shrunk(file: File): Promise<string> {
  // A moving picture stays one; small ones go as they are.
  if (file.type === "image/gif") return asIs(file);
  const bitmap = await createImageBitmap(file);
  const scale = LONGEST / Math.max(bitmap.width, bitmap.height);
  if (scale >= 1 && file.size < 3_000_000) {
    bitmap.close();
    return asIs(file);
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * Math.min(1, scale)));
  canvas.height = Math.max(1, Math.round(bitmap.height * Math.min(1, scale)));
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.92);
}

function asIs(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error("unreadable"));
    reader.readAsDataURL(file);
  });
}
