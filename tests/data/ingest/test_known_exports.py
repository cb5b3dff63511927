"""Each known export, written with its documented columns, is found, named and read without a flag."""

# ruff: noqa: E501 (a row of a table is one line)

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.ingest.__main__ import IngestConfig, main
from data.ingest.dry_run import dry_run
from data.ingest.known_exports import KNOWN, PRESETS, detect, fitted, load_preset
from data.ingest.pipeline import ingest
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from tests.helpers.misbehaving_server import Server, photo_bytes, running_server

Answer = tuple[str, str | None, float | None]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


def table(header: str, *rows: str, delimiter: str = ",", encoding: str = "utf-8") -> bytes:
    """A table whose cells are written apart by `|`, as a CSV file; cells left out at the end of a row are blank."""
    names = [cell.strip() for cell in header.split("|")]
    lines = [[cell.strip() for cell in row.split("|")] for row in rows]
    assert all(len(line) <= len(names) for line in lines)
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([names, *(line + [""] * (len(names) - len(line)) for line in lines)])
    return buffer.getvalue().encode(encoding)


SHOPIFY = (
    "Handle | Title | Body (HTML) | Vendor | Product Category | Type | Tags | Published | Option1 Name | Option1 Value | "
    "Variant SKU | Variant Grams | Variant Price | Variant Compare At Price | Image Src | Image Position | Image Alt Text | "
    "Gift Card | SEO Title | Variant Image | Status"
)
WOO = (
    "ID | Type | SKU | Name | Published | Is featured? | Visibility in catalog | Short description | Description | Tax status | "
    "In stock? | Stock | Sale price | Regular price | Categories | Tags | Images | Parent | Attribute 1 name | Attribute 1 value(s)"
)
WOO_DE = (
    "ID | Typ | Artikelnummer | Name | Veröffentlicht | Ist hervorgehoben? | Angebotspreis | Regulärer Preis | Kategorien | "
    "Schlagwörter | Bilder | Übergeordnet"
)
WOO_FR = "ID | Type | UGS | Nom | Publié | Tarif promo | Tarif régulier | Catégories | Étiquettes | Images | Parent"
MAGENTO = (
    "sku | store_view_code | attribute_set_code | product_type | categories | product_websites | name | description | weight | "
    "price | special_price | url_key | base_image | base_image_label | small_image | thumbnail_image | additional_images | qty"
)
MAGENTO_1 = "sku | _store | _attribute_set | _type | _category | name | price | image | _media_image"
PRESTA = (
    "Product ID | Image | Name | Reference | Category | Price (tax excl.) | Price (tax incl.) | Quantity | Status | Position"
)
PRESTA_FR = (
    "ID | Actif (0/1) | Nom * | Catégories (x,y,z...) | Prix HT | Référence # | Marque | URL des images (x,y,z...) | "
    "Textes alternatifs des images (x,y,z...)"
)
ETSY = (
    "TITLE | DESCRIPTION | PRICE | CURRENCY_CODE | QUANTITY | TAGS | MATERIALS | IMAGE1 | IMAGE2 | IMAGE3 | IMAGE4 | IMAGE5 | "
    "IMAGE6 | IMAGE7 | IMAGE8 | IMAGE9 | IMAGE10 | VARIATION 1 TYPE | VARIATION 1 NAME | VARIATION 1 VALUES | SKU"
)
GOOGLE = (
    "id | title | description | link | image_link | additional_image_link | availability | price | sale_price | brand | gtin | "
    "google_product_category | product_type | item_group_id | condition"
)
AMAZON = (
    "feed_product_type | item_sku | brand_name | item_name | external_product_id | external_product_id_type | item_type | "
    "standard_price | quantity | main_image_url | other_image_url1 | other_image_url2 | parent_child | parent_sku | "
    "relationship_type | variation_theme | list_price | sale_price"
)
AMAZON_REPORT = "item-name | item-description | listing-id | seller-sku | price | quantity | open-date | image-url | product-id"


ETSY_IT = (
    "TITOLO | DESCRIZIONE | PREZZO | CURRENCY_CODE | QUANTITÀ | TAG | MATERIALI | IMMAGINE1 | IMMAGINE2 | IMMAGINE3 | "
    "TIPO VARIANTE 1 | NOME VARIANTE 1 | VALORI VARIANTE 1 | SKU"
)
BIGCOMMERCE = (
    "Item Type | Product ID | Product Name | Product Type | Product Code/SKU | Price | Cost Price | Sale Price | Category | "
    "Product Image File - 1 | Product Image File - 2"
)
SQUARESPACE = (
    "Product ID [Non Editable] | Variant ID [Non Editable] | Product Type [Non Editable] | Product Page | Product URL | Title | "
    "Description | SKU | Option Name 1 | Option Value 1 | Price | Sale Price | On Sale | Categories | Hosted Image URLs"
)


def amazon_template(u: str) -> bytes:
    """A category's template: settings, the names that people read, the names of the fields."""
    rows = [
        "TemplateType=fptcustom|Version=2021.0909|TemplateSignature=U0hJUlQ=|The top 3 rows are for Amazon.com use only.||||",
        "Product Type|Seller SKU|Brand Name|Product Name|Standard Price|Main Image URL|Parentage|Parent SKU",
        "feed_product_type|item_sku|brand_name|item_name|standard_price|main_image_url|parent_child|parent_sku",
        f"shirt|P1|Acme|Work shirt||{u}28.jpg|parent|",
        f"shirt|P1-B|Acme|Work shirt (blue)|29.90|{u}29.jpg|child|P1",
    ]
    return "\n".join(row.replace("|", "\t") for row in rows).encode()


def yml(u: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><yml_catalog date="2024-01-01"><shop><name>Shop</name>'
        '<currencies><currency id="RUR" rate="1"/></currencies>'
        '<categories><category id="1">Дом</category><category id="7" parentId="1">Лампы</category></categories><offers>'
        '<offer id="a" available="true"><name>Настольная лампа</name><price>1620.00</price><currencyId>RUR</currencyId>'
        f"<categoryId>7</categoryId><picture>{u}56.jpg</picture><picture>{u}57.jpg</picture></offer>"
        '<offer id="b" type="vendor.model"><typePrefix>Лампа</typePrefix><vendor>Acme</vendor><model>L2</model><price>590</price>'
        f"<currencyId>RUR</currencyId><categoryId>1</categoryId><picture>{u}58.jpg</picture></offer></offers></shop></yml_catalog>"
    ).encode()


def google_xml(u: str) -> bytes:
    items = "".join(
        f"<item><g:id>{k}</g:id><title>{title}</title><link>https://shop.example/{k}</link><g:image_link>{u}{k}.jpg</g:image_link>"
        f"<g:price>{price}</g:price><g:product_type>Home &gt; Shelves</g:product_type></item>"
        for k, title, price in ((81, "Pine shelf", "59.00 GBP"), (82, "Étagère &amp; pied", "1,089.00 GBP"))
    )
    head = '<?xml version="1.0"?><rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel><title>Shop</title>'
    return f"{head}{items}</channel></rss>".encode()


def formats(u: str) -> dict[str, tuple[str, bytes, list[Answer]]]:
    """Name -> (file name, content, the answers of the rows that have a picture). `u` goes before a picture's number."""
    return {
        "shopify": ("products_export.csv", table(
            SHOPIFY,
            f"mug | Blue Mug | <p>Hi</p> | Acme | Home > Mugs | Mugs | a | true | Size | S | M-S | 300 | 14.50 | | {u}1.jpg | 1 | | false | | | active",
            f"mug | | | | | | | | | L | M-L | 400 | 18.00 | | {u}2.jpg | 2 | | | | | ",
            f"mug | | | | | | | | | | | | | | {u}3.jpg | 3 | | | | | ",
            f"tray | Oak Tray | | Acme | | Trays | | true | Title | Default Title | T | 900 | 39.00 | 49.00 | {u}4.jpg | 1 | | false | | | active",
        ), [("Blue Mug", "Mugs", 14.5), ("Blue Mug", "Mugs", 18.0), ("Blue Mug", "Mugs", 14.5), ("Oak Tray", "Trays", 39.0)]),
        "woocommerce": ("wc-product-export.csv", table(
            WOO,
            f"41 | simple | BELT | Leather belt | 1 | 0 | visible | | | taxable | 1 | 3 | 15 | 20 | Clothing > Belts | | {u}5.jpg, {u}6.jpg | | | ",
            f"42 | variable | CAP | Wool cap | 1 | 0 | visible | | | taxable | 1 | | | | Clothing > Caps | | {u}7.jpg | | Colour | Red",
            f"43 | variation | CAP-R | Wool cap - Red | 1 | 0 | visible | | | taxable | 1 | 3 | | 18 | | | {u}8.jpg | CAP | Colour | Red",
        ), [("Leather belt", "Clothing > Belts", 15.0), ("Wool cap", "Clothing > Caps", None),
            ("Wool cap - Red", "Clothing > Caps", 18.0)]),
        "woocommerce in German, Windows text": ("wc-produkte.csv", table(
            WOO_DE,
            f"1 | simple | G1 | Gürtel für Damen | 1 | 0 | 15,50 | 20,00 | Kleidung > Gürtel | | {u}9.jpg | ",
            f"2 | simple | M2 | Mütze | 1 | 0 | | 18,00 | Kleidung > Mützen | | {u}10.jpg, {u}11.jpg | ",
            delimiter=";", encoding="cp1252",
        ), [("Gürtel für Damen", "Kleidung > Gürtel", 15.5), ("Mütze", "Kleidung > Mützen", 18.0)]),
        "woocommerce in French, UTF-16": ("wc-produits.csv", table(
            WOO_FR, f"1 | simple | C1 | Écharpe en laine | 1 | | 25,00 | Mode > Écharpes | | {u}12.jpg | ", encoding="utf-16",
        ), [("Écharpe en laine", "Mode > Écharpes", 25.0)]),
        "magento": ("catalog_product.csv", table(
            MAGENTO,
            f"WSH12 | | Bottom | simple | Default Category/Women/Shorts | base | Erika Running Short | | 1 | 45.000000 | 39.5 | erika | {u}13.jpg | | {u}13.jpg | | {u}14.jpg,{u}15.jpg | 5",
            f"24-MB01 | | Bag | simple | Default Category/Gear/Bags | base | Joust Duffle Bag | | | 34.000000 | | joust | {u}16.jpg | | | | | 100",
            "24-MB01 | fr | Bag | simple | | | Sac de sport | | | | | | | | | | | ",
        ), [("Erika Running Short", "Default Category/Women/Shorts", 39.5), ("Joust Duffle Bag", "Default Category/Gear/Bags", 34.0)]),
        "magento 1": ("catalog_product_2014.csv", table(
            MAGENTO_1, f"V1 | | Vases | simple | Home/Vases | Blue vase | 45.5 | {u}59.jpg | {u}60.jpg",
            f" | | | | Home/New | | | | {u}61.jpg", f"T1 | | Trays | simple | Home/Trays | Oak tray | 39 | {u}62.jpg | {u}62.jpg",
        ), [("Blue vase", "Home/Vases", 45.5), ("Blue vase", "Home/New", 45.5), ("Oak tray", "Home/Trays", 39.0)]),
        "prestashop": ("product_2026.csv", table(
            PRESTA,
            f"1 | {u}17.jpg | Hummingbird printed t-shirt | demo_1 | Men | 23.90 | 28.68 | 2400 | 1 | 1",
            f"2 | {u}18.jpg | Brown bear cushion | demo_15 | Home Accessories | 18.90 | 22.68 | 300 | 1 | 0",
            delimiter=";",
        ), [("Hummingbird printed t-shirt", "Men", 28.68), ("Brown bear cushion", "Home Accessories", 22.68)]),
        "prestashop in French": ("produits.csv", table(
            PRESTA_FR, f"1 | 1 | Étagère murale | Maison | 59,90 | E-1 | Acme | {u}19.jpg,{u}20.jpg | face",
            delimiter=";", encoding="utf-8-sig",
        ), [("Étagère murale", "Maison", 59.9)]),
        "etsy": ("EtsyListingsDownload.csv", table(
            ETSY,
            f"Oak clock | Ticks | 45.00 | EUR | 3 | clock,oak | Oak | {u}21.jpg | {u}22.jpg | | | | | | | | | | | | ",
            f"Brass clock | Ticks too | 1,260.00 | EUR | 1 | clock | Brass | {u}23.jpg | | | | | | | | | | Size | Size | S,M | B1",
        ), [("Oak clock", None, 45.0), ("Brass clock", None, 1260.0)]),
        "google merchant": ("feed.tsv", table(
            GOOGLE,
            f"1 | Pine shelf | | https://shop.example/1 | {u}24.jpg | {u}25.jpg,{u}26.jpg | in stock | 59.00 GBP | 49.00 GBP | Acme | | 464 | Home > Shelves | S | new",
            f"2 | Steel shelf | | https://shop.example/2 | {u}27.jpg | | in stock | 1,089.00 GBP | | Acme | | 464 | Home > Shelves | S | new",
            delimiter="\t",
        ), [("Pine shelf", "Home > Shelves", 49.0), ("Steel shelf", "Home > Shelves", 1089.0)]),
        "google merchant as XML": ("feed.xml", google_xml(u),
                                   [("Pine shelf", "Home > Shelves", 59.0), ("Étagère & pied", "Home > Shelves", 1089.0)]),
        "amazon": ("flat.file.txt.tsv", table(
            AMAZON,
            f"SHIRT | P1 | Acme | Work shirt | | | shirts | | | {u}28.jpg | | | parent | | | Color | | ",
            f"SHIRT | P1-B | Acme | Work shirt (blue) | 40123 | EAN | shirts | 29.90 | 5 | {u}29.jpg | {u}30.jpg | | child | P1 | variation | Color | 39.90 | ",
            delimiter="\t",
        ), [("Work shirt", "shirts", None), ("Work shirt (blue)", "shirts", 29.9)]),
        "amazon's listings, Windows text": ("All+Listings.tsv", table(
            AMAZON_REPORT, f"Café mug – blue | | 1 | M1 | 12.50 | 3 | 2024 | {u}31.jpg | B01",
            delimiter="\t", encoding="cp1252",
        ), [("Café mug – blue", None, 12.5)]),
        "label studio": ("project-1.json", json.dumps([
            {"id": 1, "data": {"image": f"{u}32.jpg", "sku": "K1"}, "annotations": [
                {"id": 4, "was_cancelled": True, "result": []},
                {"id": 5, "was_cancelled": False, "result": [
                    {"from_name": "kind", "to_name": "image", "type": "choices", "value": {"choices": ["Shirt"]}},
                    {"from_name": "name", "to_name": "image", "type": "textarea", "value": {"text": ["Blue shirt"]}},
                    {"from_name": "price", "to_name": "image", "type": "number", "value": {"number": 12.5}}]}]},
        ]).encode(), [("Blue shirt", "Shirt", 12.5)]),
        "coco": ("captions_val.json", json.dumps({
            "info": {"year": 2017}, "licenses": [],
            "images": [{"id": k, "file_name": f"{u}{k}.jpg", "width": 48, "height": 40} for k in (33, 34)],
            "annotations": [{"id": 1, "image_id": 33, "caption": "A work shirt"}, {"id": 2, "image_id": 34, "caption": "A red cap"},
                            {"id": 3, "image_id": 33, "caption": "A blue shirt"}],
        }).encode(), [("A work shirt", None, None), ("A red cap", None, None), ("A blue shirt", None, None)]),
        "etsy in Italian": ("EtsyListingsDownload.csv", table(
            ETSY_IT, f"Vaso di ceramica | Fatto a mano | 46 | EUR | 1 | vaso | Ceramica | {u}41.jpg | {u}42.jpg",
            f"Tazza | Blu | 1.018,50 | EUR | 2 | tazza | Ceramica | {u}43.jpg",
        ), [("Vaso di ceramica", None, 46.0), ("Tazza", None, 1018.5)]),
        "amazon's template with its three first lines": ("Shirts.txt", amazon_template(u),
                                                         [("Work shirt", "shirt", None), ("Work shirt (blue)", "shirt", 29.9)]),
        "amazon's template of 2024": ("Hats.txt", (
            "settings=1\t\t\t\nListing Identity\t\tImages\tOffer\nSKU\tItem Name\tMain Image URL\tYour Price USD\n"
            "contribution_sku#1.value\titem_name[marketplace_id=ATV][language_tag=en_US]#1.value\t"
            "main_product_image_locator[marketplace_id=ATV]#1.media_location\t"
            "purchasable_offer[marketplace_id=ATV][audience=ALL]#1.our_price#1.schedule#1.value_with_tax\n"
            f"ABC123\tExample\t\t\nS1\tWool hat\t{u}70.jpg\t25.5\n"
        ).encode(), [("Wool hat", None, 25.5)]),
        "yml": ("feed.xml", yml(u), [("Настольная лампа", "Дом > Лампы", 1620.0), ("Лампа Acme L2", "Дом", 590.0)]),
        "bigcommerce": ("products.csv", table(
            BIGCOMMERCE, f"Product | 77 | Mug | P | MUG-1 | 12.00 | 0.00 | 0.00 | Kitchen/Mugs | {u}44.jpg | {u}45.jpg",
            "SKU | 77 | | | MUG-2 | | | | | |", f"Product | 78 | Tray | P | TRAY | 39.00 | 0.00 | 35.00 | Kitchen | {u}46.jpg |",
        ), [("Mug", "Kitchen/Mugs", 12.0), ("Tray", "Kitchen", 39.0)]),
        "bigcommerce with pictures in rows of their own": ("products.csv", table(
            "Item | ID | Name | Type | SKU | Price | Retail Price | Sale Price | Categories | Image URL (Import) | Internal Image URL (Export)",
            "Product | 77 | Mug | physical | MUG | 12 | 0 | 0 | Kitchen/Mugs | |", "Variant | 64 | | | MUG-1 | | | | | |",
            f"Image | 266 | | | | | | | | | {u}44.jpg", f"Image | 267 | | | | | | | | {u}45.jpg |",
            "Product | 80 | Tray | physical | TRAY | 39 | 0 | 35 | Kitchen | |", f"Image | 270 | | | | | | | | | {u}46.jpg",
        ), [("Mug", "Kitchen/Mugs", 12.0), ("Mug", "Kitchen/Mugs", 12.0), ("Tray", "Kitchen", 39.0)]),
        "wix of 2025": ("catalog.csv", table(
            "handle | fieldType | name | visible | plainDescription | media | price | strikethroughPrice | categories | sku",
            f"hat | PRODUCT | Felt Hat | TRUE | Warm | {u}44.jpg;{u}45.jpg | 39 | 49 | Hats | HAT", "hat | VARIANT | | TRUE | | | 39 | | | HAT-S",
            f"bag | PRODUCT | Jute Bag | TRUE | Nice | {u}46.jpg | 19 | | Bags | BAG",
        ), [("Felt Hat", "Hats", 39.0), ("Jute Bag", "Bags", 19.0)]),
        "squarespace": ("products_Nov.csv", table(
            SQUARESPACE, f"a1 | v1 | PHYSICAL | store | mug | Mug | <p>Blue</p> | SQ1 | Size | S | 12.00 | 0.00 | No | /mugs | {u}47.jpg {u}48.jpg",
            "a1 | v2 | | | | | | SQ2 | Size | L | 14.00 | 0.00 | No | | ",
        ), [("Mug", "/mugs", 12.0)]),
        "a web page that is called .xls": ("export.xls", (
            "<html><head><meta charset='utf-8'></head><body><table><tr><th>Produkt</th><th>Titel</th><th>Preis (EUR)</th><th>Bild</th>"
            f"</tr><tr><td>1</td><td>Grüner Stuhl</td><td>1.250</td><td><img src='{u}49.jpg'></td></tr></table></body></html>"
        ).encode(), [("Grüner Stuhl", None, 1250.0)]),
        "by columns, as pandas writes it": ("products.json", json.dumps({
            "title": {"0": "Pot", "1": "Pan"}, "price": {"0": 5.5, "1": 7.0}, "img_link": {"0": f"{u}50.jpg", "1": f"{u}51.jpg"},
        }).encode(), [("Pot", None, 5.5), ("Pan", None, 7.0)]),
        "a shop's products.json": ("products.json", json.dumps({"products": [
            {"id": 1, "title": "Mug", "handle": "mug", "product_type": "Mugs", "variants": [{"id": 7, "price": "12.50"}, {"id": 8, "price": "14"}],
             "images": [{"id": 3, "src": f"{u}52.jpg"}, {"id": 4, "src": f"{u}53.jpg"}]},
            {"id": 2, "title": "Tray", "handle": "tray", "product_type": "Trays", "variants": [{"id": 9, "price": "39.00"}],
             "images": [{"id": 5, "src": f"{u}54.jpg"}]},
        ]}).encode(), [("Mug", "Mugs", 12.5), ("Tray", "Trays", 39.0)]),
        "a shop's API": ("wc.json", json.dumps([
            {"id": 1, "name": "Cap", "price": "18", "regular_price": "20", "sale_price": "18", "categories": [{"id": 3, "name": "Hats"}],
             "images": [{"id": 9, "src": f"{u}55.jpg", "name": "cap", "alt": ""}]},
        ]).encode(), [("Cap", "Hats", 18.0)]),
        "ebay's file": ("ebay.csv", (
            "#INFO,Version=1.0.0,Template= eBay\n#INFO Action and Category ID are required fields.,,,\n"
            "*Action(SiteID=US|Country=US|Version=1193),*Category,*Title,PicURL,*StartPrice,CustomLabel\n"
            f"Add,1234,Blue mug,{u}63.jpg|{u}64.jpg,12.50,M1\nAdd,1234,Oak tray,{u}65.jpg,39.00,M2\n"
        ).encode(), [("Blue mug", "1234", 12.5), ("Oak tray", "1234", 39.0)]),
        "schema.org's JSON-LD": ("products.json", json.dumps([
            {"@type": "Product", "name": "Mug", "image": [f"{u}66.jpg"], "category": "Mugs", "offers": {"price": "12.50", "priceCurrency": "EUR"}},
            {"@type": "Product", "name": "Tray", "image": f"{u}67.jpg", "offers": {"price": 39, "priceCurrency": "EUR"}},
        ]).encode(), [("Mug", "Mugs", 12.5), ("Tray", None, 39.0)]),
        "photos as the keys of objects": ("zara.csv", table(
            "product_name | product_images | price", f"BASIC T-SHIRT | [{{'{u}68.jpg?ts=1': 'x'}}, {{'{u}69.jpg': 'x'}}] | ₹ 1,290.00",
        ), [("BASIC T-SHIRT", None, 1290.0)]),
        "image folder": ("metadata.jsonl", "\n".join(json.dumps(row) for row in (
            {"file_name": f"{u}35.jpg", "text": "A work shirt"}, {"file_name": f"{u}36.jpg", "text": "A red cap"},
        )).encode(), [("A work shirt", None, None), ("A red cap", None, None)]),
        "usual names in Spanish": ("productos.csv", table(
            "Título | Categoría | Precio | Imagen", f"Estantería de pino | Hogar | 1.059,00 € | {u}37.jpg",
            delimiter=";",
        ), [("Estantería de pino", "Hogar", 1059.0)]),
        "usual names of a scrape": ("flipkart.csv", table(
            "uniq_id | product_name | product_category_tree | retail_price | discounted_price | image | brand",
            f"a | Cycling shorts | Clothing >> Shorts | 999 | 379 | [\"{u}38.jpg\", \"{u}39.jpg\"] | Alisha",
            f"b | Sofa bed | Furniture >> Sofas | 32157 | | [\"{u}40.jpg\"] | FabHome",
        ), [("Cycling shorts", "Clothing >> Shorts", 379.0), ("Sofa bed", "Furniture >> Sofas", 32157.0)]),
    }  # fmt: skip


def answers(folder: Path) -> list[Answer]:
    catalogue = Catalogue(folder)
    rows = sorted((row for name in catalogue.info["splits"] for row in catalogue.split(name)), key=lambda row: row["id"])
    return [
        (str(row.get("title") or row.get("name")), row.get("category") or row.get("kind"), row.get("price")) for row in rows
    ]


@pytest.mark.parametrize("name", list(formats("")))
def test_the_obvious_command_keeps_every_row_that_has_a_picture(name: str, server: Server, tmp_path: Path) -> None:
    file, content, expected = formats(f"{server.url}/ok/")[name]
    (tmp_path / file).write_bytes(content)
    flags = [str(tmp_path / file), "--output", str(tmp_path / "out"), "--processes", "1", "--allow-hosts", server.host]
    if "Windows" in name:
        flags += ["--encoding", "cp1252"]
    if "UTF-16" in name:
        flags += ["--encoding", "utf-16"]
    assert main(flags) == 0
    assert answers(tmp_path / "out") == expected
    assert all(len(row["images"]) == 1 for row in Catalogue(tmp_path / "out").split("train"))


def test_relative_pictures_are_found_below_the_image_root(tmp_path: Path) -> None:
    (tmp_path / "media" / "w" / "s").mkdir(parents=True)
    (tmp_path / "media" / "w" / "s" / "wsh12.jpg").write_bytes(photo_bytes(1))
    rows = table(
        MAGENTO, "WSH12 | | Bottom | simple | A/B | base | Short | | 1 | 45 | | e | /w/s/wsh12.jpg | | | | /w/s/no.jpg | 5"
    )
    (tmp_path / "c.csv").write_bytes(rows)
    settings = IngestConfig(str(tmp_path / "c.csv"), tmp_path / "out", image_root=str(tmp_path / "media"), processes=1)
    assert ingest(settings)["counts"]["kept"] == 1


def test_the_pictures_of_a_wix_export_are_files_at_wix_or_below_the_image_root(tmp_path: Path) -> None:
    (tmp_path / "a~mv2.jpg").write_bytes(photo_bytes(1))
    rows = ["product_1,Product,Bloom,,a~mv2.jpg;b~mv2.jpg,Wedding,115", "product_1,Variant,,,,,120"]
    (tmp_path / "c.csv").write_text("\n".join(["handleId,fieldType,name,description,productImageUrl,collection,price", *rows]))
    found = dry_run(IngestConfig(str(tmp_path / "c.csv"), dry_run=5))
    assert found.rows[0].photos == ("https://static.wixstatic.com/media/a~mv2.jpg",)
    assert (found.rows[0].fields, found.rows[1].rejected) == (
        {"title": "Bloom", "category": "Wedding", "price": 115.0},
        "picture_missing_in_row",
    )
    settings = IngestConfig(str(tmp_path / "c.csv"), tmp_path / "out", image_root=str(tmp_path), processes=1)
    assert ingest(settings)["counts"]["kept"] == 1


def test_an_export_is_named_and_can_be_turned_off(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, content, _ = formats(f"{server.url}/ok/")["shopify"]
    (tmp_path / file).write_bytes(content)
    flags = [str(tmp_path / file), "-o", str(tmp_path / "a"), "--processes", "1", "--allow-hosts", server.host]
    assert main(flags) == 0
    assert "read as a Shopify export; --preset none turns that off" in capsys.readouterr().err
    with pytest.raises(UserError, match="give --image COLUMN"):
        main([*flags[:2], str(tmp_path / "b"), *flags[3:], "--preset", "none", "--field", "title=Title"])


def test_a_preset_may_be_copied_and_changed(server: Server, tmp_path: Path) -> None:
    file, content, _ = formats(f"{server.url}/ok/")["google merchant"]
    (tmp_path / file).write_bytes(content)
    own = load_preset("google_merchant") | {"template": "{title}, Price: {price}"}
    own["fields"] = {name: own["fields"][name] for name in ("title", "price")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own, allow_unicode=True), encoding="utf-8")
    flags = [str(tmp_path / file), "-o", str(tmp_path / "out"), "--processes", "1", "--allow-hosts", server.host]
    assert main([*flags, "--preset", str(tmp_path / "mine.yaml")]) == 0
    catalogue = Catalogue(tmp_path / "out")
    assert catalogue.task.answer(catalogue.split("train")[0]) == "Pine shelf, Price: 49.0"


def test_an_unknown_preset_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("title,image\na,a.png\n")
    with pytest.raises(UserError, match="--preset 'shopfy' is none of burberry, shopify"):
        main([str(tmp_path / "s.csv"), "-o", str(tmp_path / "out"), "--preset", "shopfy"])


@pytest.mark.parametrize("name", [name for name in KNOWN if load_preset(name).get("found_by")])
def test_each_set_of_columns_finds_its_own_export(name: str) -> None:
    for columns in load_preset(name)["found_by"]:
        assert detect(columns) == name, columns
        assert detect([column.upper().replace(" ", "_") for column in columns]) == name, columns


def test_every_preset_is_read_and_names_what_there_is() -> None:
    for name in PRESETS:
        preset = load_preset(name)
        assert set(preset) <= {
            "export",
            "found_by",
            "fields",
            "image",
            "photos",
            "group",
            "code",
            "prompt",
            "template",
            "image_root",
        }
        assert name == "none" or fitted(preset, ["title"]) is not None


CASES: list[tuple[list[str], dict[str, Any]]] = [
    (["title", "price", "image"], {"title": "title", "price": "price"}),
    (["TITLE", "Price ", "Image"], {"title": "TITLE", "price": "Price "}),
    (["name", "title", "price", "photo"], {"title": "title", "name": "name", "price": "price"}),
    (["Produktname", "Warengruppe", "Preis", "Bild"], {"title": "Produktname", "category": "Warengruppe", "price": "Preis"}),
    (["Nom", "Catégorie", "Prix", "Photo"], {"title": "Nom", "category": "Catégorie", "price": "Prix"}),
    (["название", "категория", "цена", "фото"], {"title": "название", "category": "категория", "price": "цена"}),
    (["商品名", "カテゴリ", "価格", "画像"], {"title": "商品名", "category": "カテゴリ", "price": "価格"}),
]


@pytest.mark.parametrize(("columns", "expected"), CASES)
def test_usual_names_are_found_in_any_case_and_several_languages(columns: list[str], expected: dict[str, str]) -> None:
    from data.ingest.known_exports import with_preset
    from data.ingest.mapping import make_mapping

    keys, export = with_preset({}, columns, None)
    mapping = make_mapping(keys, columns, "s.csv")
    assert export is None
    assert {field.name: field.column for field in mapping.fields} == expected
    assert mapping.images == (columns[-1],)
